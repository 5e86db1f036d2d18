"""The weights of a Hugging Face directory, listed before any of them is read.

    model.safetensors                   all of them; or
    model.safetensors.index.json        {"weight_map": {key: file}}, and the files that it names, no others; or
    pytorch_model.bin                   all of them, by torch.load; or
    pytorch_model.bin.index.json        an index of such files

The first of these that exists is used, as in transformers; without any, other_names.py looks for others. Keys that were
saved from inside a wrapper lose its prefix (prefixes.py). The "total_size" of an index is ignored: published ones are
often wrong, and every file has the sizes of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama_scratch.checkpoint.files import CheckpointError, exists, read_json, size, unreadable
from llama_scratch.checkpoint.hints import refuse_pointer
from llama_scratch.checkpoint.other_names import find_weights
from llama_scratch.checkpoint.prefixes import BARE, without_wrappers
from llama_scratch.checkpoint.torch_file import read_tensors
from llama_scratch.model.config import LlamaConfig

SAFETENSORS, INDEX = "model.safetensors", ".index.json"
PREFIX = "model."
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Weight:
    """A tensor that has not been read yet: its file, its name there, and a function that reads it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A configuration and unread weights, of any format."""

    where: Path  # the file that lists the weights
    config: LlamaConfig
    weights: Mapping[str, Weight]
    generation: Mapping[str, Any] = field(default_factory=dict)


def read_weights(directory: Path, strip_prefix: str = "") -> tuple[Path, dict[str, Weight]]:
    """Return the file that lists the weights, and every weight by its key, with "model." even if it is stored without.

    `strip_prefix` is removed from names. Rotary frequencies, which files of 2023 repeat in every layer, are dropped.
    Raises CheckpointError for a missing, truncated or stray file, an index that does not match its files, and a
    duplicate key.
    """
    for single, read in ((SAFETENSORS, safetensors_weights), ("pytorch_model.bin", torch_weights)):
        if exists(directory / single):
            return directory / single, canonical(read(directory / single).values(), strip_prefix)
        index = directory / (single + INDEX)
        if exists(index):
            return index, canonical(_sharded(index, Path(single).suffix, read), strip_prefix)
    files = find_weights(directory, SAFETENSORS)
    read = safetensors_weights if files[0].suffix == ".safetensors" else torch_weights
    weights = [weight for file in files for weight in read(file).values()]
    return files[0], canonical(weights, strip_prefix)


def safetensors_weights(path: Path) -> dict[str, Weight]:
    """List the weights of a file by its header, which the library checks against the size. Raises CheckpointError."""
    size(path)
    refuse_pointer(path)
    weights = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a dict
                entry = file.get_slice(name)
                if entry.get_dtype() not in DTYPES:
                    raise CheckpointError(f"{path}: {name} holds {entry.get_dtype()}, expected a floating-point type")
                shape = tuple(entry.get_shape())
                read = partial(_read_safetensor, path, name)
                weights[name] = Weight(path, name, shape, DTYPES[entry.get_dtype()], read)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise unreadable(path, error) from None
    return weights


def _read_safetensor(path: Path, name: str) -> Tensor:
    """Read a memory-mapped tensor. The file is opened for each, so that the pages of converted ones are released."""
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise unreadable(path, error) from None


def torch_weights(path: Path) -> dict[str, Weight]:
    """List the weights of a file of torch.save; two names of one stored tensor become two tensors."""
    refuse_pointer(path)
    weights = {}
    seen = set()
    for name, tensor in read_tensors(path).items():
        place = tensor.untyped_storage().data_ptr()
        read = tensor.clone if place in seen else tensor.contiguous
        seen.add(place)
        weights[name] = Weight(path, name, tuple(tensor.shape), tensor.dtype, read)
    return weights


def _sharded(index: Path, suffix: str, read: Callable[[Path], dict[str, Weight]]) -> Iterable[Weight]:
    weight_map = _weight_map(index, suffix)
    found = {}
    for file in sorted(set(weight_map.values())):
        for name, weight in read(index.with_name(file)).items():
            if is_rotary(name):
                continue
            if name not in weight_map:
                raise CheckpointError(f"{weight.path}: {name} is not in {index.name}")
            if weight_map[name] != file:
                raise CheckpointError(f"{weight.path}: {name} is there, but {index.name} puts it in {weight_map[name]}")
            found[name] = weight
    for name, file in weight_map.items():
        if name not in found and not is_rotary(name):
            raise CheckpointError(f"{index}: {name} should be in {file}, which does not contain it")
    return found.values()


def _weight_map(index: Path, suffix: str) -> dict[str, str]:
    refuse_pointer(index)
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is missing, expected an object of key: file")
    for key, file in weight_map.items():
        # only a name: a path could lead out of the directory, to a file that the user never meant to open
        if not isinstance(file, str) or "/" in file or "\\" in file or "\0" in file or not file.endswith(suffix):
            raise CheckpointError(f"{index}: {key} is in {file!r}, expected the name of a {suffix} file next to it")
    return weight_map


def is_rotary(name: str) -> bool:
    """Return True for the name of stored rotary frequencies, which follow from the configuration."""
    return name.endswith(".rotary_emb.inv_freq")


def canonical(weights: Iterable[Weight], strip_prefix: str = "") -> dict[str, Weight]:
    """Map keys to weights. Raises CheckpointError if two names mean one key, and for a LoRA that is not merged."""
    weights = list(weights)
    by_key: dict[str, Weight] = {}
    called = without_wrappers([weight.name for weight in weights], strip_prefix)
    for weight in weights:
        if ".lora_A." in weight.name or ".lora_B." in weight.name:
            how = "merge it into the model first, with peft: model.merge_and_unload().save_pretrained(DIR)"
            raise CheckpointError(f"{weight.path}: {weight.name} belongs to a LoRA; {how}")
        name = called[weight.name]
        key = PREFIX + name if name.startswith(BARE) else name
        if is_rotary(key):
            continue
        if key in by_key:
            raise CheckpointError(f"{weight.path}: {weight.name} and {by_key[key].name} are the same weight")
        by_key[key] = weight
    return by_key
