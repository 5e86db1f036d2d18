"""The files of a Hugging Face directory, and how each is written.

Weights go into model.safetensors, or, if they are larger than `max_shard_size`, into model-00001-of-0000n.safetensors
and so on with an index.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
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
    """Map each file name to the function that writes it. `read` gives a weight at `dtype`; one shard is in memory at a
    time.

    Raises ConfigError for a max_shard_size below 1.
    """
    if max_shard_size < 1:
        raise ConfigError(f"max_shard_size is {max_shard_size}, expected 1 byte or more")
    config = dataclasses.replace(config, dtype=dtype_name(dtype))
    split = split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda weight: weight.numel() * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    files: Files = {}
    for name, keys in split.filename_to_tensors.items():
        files[name] = partial(_write_shard, {key: weights[key] for key in keys}, read)
    if split.is_sharded:
        total = sum(weight.numel() for weight in weights.values())
        metadata = {"total_parameters": total, **split.metadata}
        files[SAFETENSORS + INDEX] = _json({"metadata": metadata, "weight_map": split.tensor_to_filename})
    files[GENERATION] = _json(generation_content(config, generation))
    files[CONFIG] = _json(config_file.to_dict(config))
    return files


def generation_content(config: LlamaConfig, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Content of generation_config.json: what was loaded, with the special ids of the configuration."""
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**generation, **{name: value for name, value in ids.items() if value is not None}}


def _write_shard(weights: Mapping[str, Weight], read: Callable[[Weight], Tensor], path: Path) -> None:
    save_file({key: read(weight) for key, weight in weights.items()}, path, metadata={"format": "pt"})


def _json(content: Any) -> Callable[[Path], Any]:
    return lambda path: path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
