"""What a Hugging Face directory holds: a configuration, stop ids, and weights that have not been read yet.

config.json              the configuration, of any vintage
generation_config.json   more stop ids, if the file exists
model.safetensors        every parameter under its Hugging Face name; weight_files.py: other forms
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint import config_file
from llama_scratch.checkpoint.files import CheckpointError, exists, read_json
from llama_scratch.checkpoint.hf_files import CONFIG, GENERATION
from llama_scratch.checkpoint.hints import ADAPTER, adapter, check_directory
from llama_scratch.checkpoint.weight_files import Checkpoint, read_weights
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import TOKENS, ConfigError, check

logger = logging.getLogger(__name__)


def read_checkpoint(directory: Path, ignore: Collection[str] = (), strip_prefix: str = "") -> Checkpoint:
    """Open a Hugging Face directory without reading weights. Raises CheckpointError."""
    check_directory(directory)
    config = read_config(directory / CONFIG, ignore)
    generation = _read_generation(directory / GENERATION)
    unused = config_file.unused(read_json(directory / CONFIG))
    if unused:
        logger.warning("%s: not used, since they say nothing about the mathematics: %s", CONFIG, ", ".join(unused))
    config = dataclasses.replace(config, eos_token_id=_union(config.eos_token_id, generation.get("eos_token_id")))
    if exists(directory / ADAPTER):
        logger.warning("%s is not applied: %s", directory / ADAPTER, adapter(directory))
    where, weights = read_weights(directory, strip_prefix)
    return Checkpoint(where, config, weights, generation)


def read_config(path: Path, ignore: Collection[str] = ()) -> LlamaConfig:
    """Read a `config.json` without the keys to ignore. Raises CheckpointError naming file and field."""
    try:
        return config_file.from_dict(read_json(path), ignore)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_generation(path: Path) -> dict[str, Any]:
    if not exists(path):
        return {}
    content = read_json(path)
    try:
        check(path.name, content, "an object", lambda v: isinstance(v, dict))
        check("eos_token_id", content.get("eos_token_id"), *TOKENS)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return dict(content)


def _union(first: int | list[int] | None, second: int | list[int] | None) -> int | list[int] | None:
    """Join the stop ids of both files, the first one's first; return `first` itself if the second adds nothing.

    The instruct models of Llama 3 end a turn with an id that only generation_config.json names (vllm#4180).
    """
    ids = _as_list(first)
    new = [i for i in dict.fromkeys(_as_list(second)) if i not in ids]
    if not new:
        return first
    return [*ids, *new] if ids else second


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [ids] if isinstance(ids, int) else ids or []
