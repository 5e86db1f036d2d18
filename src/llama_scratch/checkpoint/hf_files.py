"""The files that a Hugging Face directory consists of, and how each is written.

Weights go into model.safetensors, or into model-00001-of-0000n.safetensors and so on with an index, where they are
larger than `max_shard_size`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_scratch.checkpoint import config_file
from llama_scratch.checkpoint.weight_files import INDEX, SAFETENSORS, Weight
from llama_scratch.dtypes import dtype_name
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError

CONFIG, GENERATION = "config.json", "generation_config.json"
MAX_SHARD_SIZE = 5 * 10**9
Files = dict[str, Callable[[Path], Any]]


def checkpoint_files(
    config: LlamaConfig,
    generation: Mapping[str, Any],
    weights: Mapping[str, Weight],
    dtype: torch.dtype,
    read: Callable[[Weight], Tensor],
    max_shard_size: int,
) -> Files:
    """Name -> what writes that file. `read` gives each weight at `dtype`; a shard of them at a time is in memory.

    Raises ConfigError for a max_shard_size below 1.
    """
    if max_shard_size < 1:
        raise ConfigError(f"max_shard_size is {max_shard_size}, expected 1 byte or more")
    config = dataclasses.replace(config, dtype=dtype_name(dtype))
    shards = plan({key: weight.numel() * dtype.itemsize for key, weight in weights.items()}, max_shard_size)
    files: Files = {}
    for name, keys in shards.items():
        files[name] = partial(_write_shard, {key: weights[key] for key in keys}, read)
    if len(shards) > 1:
        total = sum(weight.numel() for weight in weights.values())
        weight_map = {key: name for name, keys in shards.items() for key in keys}
        metadata = {"total_parameters": total, "total_size": total * dtype.itemsize}
        files[SAFETENSORS + INDEX] = _json({"metadata": metadata, "weight_map": weight_map})
    files[GENERATION] = _json(generation_content(config, generation))
    files[CONFIG] = _json(config_file.to_dict(config))
    return files


def plan(sizes: Mapping[str, int], max_shard_size: int) -> dict[str, list[str]]:
    """File -> keys, in their order, none above `max_shard_size` bytes but for a single tensor that is larger itself."""
    shards: list[list[str]] = []
    room = 0
    for key, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = max_shard_size
        shards[-1].append(key)
        room -= size
    if len(shards) == 1:
        return {SAFETENSORS: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": keys for i, keys in enumerate(shards, start=1)}


def generation_content(config: LlamaConfig, generation: Mapping[str, Any]) -> dict[str, Any]:
    """What was loaded, with the special ids of the configuration; it says where transformers' `generate` stops."""
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**generation, **{name: value for name, value in ids.items() if value is not None}}


def _write_shard(weights: Mapping[str, Weight], read: Callable[[Weight], Tensor], path: Path) -> None:
    save_file({key: read(weight) for key, weight in weights.items()}, path, metadata={"format": "pt"})


def _json(content: Any) -> Callable[[Path], Any]:
    return lambda path: path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
