"""GGUF, the format of llama.cpp, for Llamas.

Tensors are F32, F16, BF16 or one of the quantised types, which the `gguf` package converts to float32. Rows of W_q and
W_k, and their biases, are in Meta's order. Norms are always stored as float32, so the checkpoint's dtype is that of its
matrices if the norms are exact in it, and float32 otherwise. tokenizer/gguf_tokenizer.py reads the tokenizer.

ggml-org/llama.cpp, convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from llama_scratch.checkpoint.files import CheckpointError, size, unreadable
from llama_scratch.checkpoint.gguf_config import FACTORS, to_config
from llama_scratch.checkpoint.gguf_header import Entry, read_header
from llama_scratch.checkpoint.rotary_layout import to_half_split
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.dtypes import dtype_name
from llama_scratch.model.config_rules import ConfigError

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def read_gguf(path: Path, ignore: Collection[str] = ()) -> Checkpoint:
    """Open the checkpoint without reading weights. Raises CheckpointError naming file and key."""
    header = read_header(path)
    weights = {}
    for name, entry in header.tensors.items():
        weights[_key(path, name)] = _weight(path, name, entry, header.data)
    factors = weights.pop(FACTORS, None)
    try:
        config = to_config(header.values, weights, factors.read() if factors else None, ignore)
        config = dataclasses.replace(config, dtype=_dtype(weights))
    except (ConfigError, KeyError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path}: {missing}") from None
    return Checkpoint(path, config, {key: to_half_split(key, weight, config) for key, weight in weights.items()})


def _key(path: Path, name: str) -> str:
    if name == FACTORS:
        return name
    module, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", module)
    if layer and layer[2] in LAYER:
        return f"model.layers.{int(layer[1])}.{LAYER[layer[2]]}.{kind}"
    if module not in NAMES:
        raise CheckpointError(f"{path}: {name} is unexpected")
    return f"{NAMES[module]}.{kind}"


def _weight(path: Path, name: str, entry: Entry, data: int) -> Weight:
    try:
        kind = gguf.GGMLQuantizationType(entry.type)
    except ValueError:
        raise CheckpointError(f"{path}: {name} has type {entry.type}, which the gguf package does not know") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if entry.shape[-1] % block:
        raise CheckpointError(
            f"{path}: {name} has rows of {entry.shape[-1]}, expected a multiple of {block} as {kind.name}"
        )
    start = data + entry.offset
    length = math.prod(entry.shape) // block * block_bytes
    if start + length > size(path):
        raise CheckpointError(f"{path}: {name} ends at byte {start + length}, but the file has {size(path)}")
    read = partial(_read, path, name, entry.shape, kind, start, length)
    return Weight(path, name, entry.shape, PLAIN.get(kind.name, torch.float32), read)


def _read(path: Path, name: str, shape: tuple[int, ...], kind: Any, start: int, length: int) -> Tensor:
    """Read the numbers: copied from the memory-mapped file, or dequantised."""
    try:
        every = torch.from_file(str(path), shared=False, size=start + length, dtype=torch.uint8)
        stored = every[start:].clone()  # a copy is aligned, so it can be viewed as numbers
        if kind.name in PLAIN:
            return stored.view(PLAIN[kind.name]).view(shape)
        return torch.from_numpy(gguf.dequantize(stored.view(math.prod(shape[:-1]), -1).numpy(), kind)).view(shape)
    except NotImplementedError:
        raise CheckpointError(f"{path}: {name} is {kind.name}, which the gguf package cannot dequantise") from None
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error) from None


def _dtype(weights: dict[str, Weight]) -> str:
    kinds = {weight.dtype for weight in weights.values() if len(weight.shape) > 1}
    dtype = kinds.pop() if len(kinds) == 1 else torch.float32
    norms = [weight.read() for weight in weights.values() if len(weight.shape) == 1]
    exact = all(torch.equal(norm, norm.to(dtype).to(norm.dtype)) for norm in norms)
    return dtype_name(dtype) if exact else "float32"
