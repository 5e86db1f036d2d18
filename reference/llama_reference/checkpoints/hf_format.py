"""A directory of transformers: config.json, and safetensors or PyTorch's own files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import LlamaConfig

from llama_reference.checkpoints.stored import Numbers, Stored, Weight, kind_of
from llama_reference.command_line import UsageError
from llama_reference.standard.cases import HARD


def read(path: Path) -> Stored:
    kind = json.loads((path / "config.json").read_text()).get("model_type")
    if kind != "llama":
        raise UsageError(f"{path / 'config.json'}: model_type is {kind!r}, expected 'llama'")
    fields = LlamaConfig.from_pretrained(path, local_files_only=True).to_dict()
    weights: dict[str, Weight] = {}
    for file in _files(path):
        weights |= _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    named = {name if name.startswith(("model.", "lm_head.")) else f"model.{name}": w for name, w in weights.items()}
    kept = {name: w for name, w in named.items() if "rotary_emb" not in name}
    return Stored(path, "transformers", {name: fields[name] for name in HARD}, kept)


def _files(path: Path) -> list[Path]:
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin"):
        if found := sorted(path.glob(pattern)):
            return found
    raise UsageError(f"{path}: holds neither *.safetensors nor *.bin")


def _safetensors(file: Path) -> dict[str, Weight]:
    def tensor(name: str) -> Numbers:
        with safe_open(file, framework="pt") as opened:
            return Numbers(opened.get_tensor(name).float())

    with safe_open(file, framework="pt") as opened:
        weights = {}
        for name in opened.keys():  # noqa: SIM118, it is no dictionary
            part = opened.get_slice(name)
            kind = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(part.get_dtype(), part.get_dtype())
            weights[name] = Weight(tuple(part.get_shape()), kind, partial(tensor, name))
    return weights


def _pickled(file: Path) -> dict[str, Weight]:
    state: dict[str, Tensor] = torch.load(file, weights_only=True, mmap=True, map_location="cpu")
    return {name: Weight(tuple(w.shape), kind_of(w.dtype), partial(_number, w)) for name, w in state.items()}


def _number(w: Tensor) -> Numbers:
    return Numbers(w.float())
