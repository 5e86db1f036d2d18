"""Any checkpoint of a Llama -> a Hugging Face directory: `python -m llama_scratch.convert SRC DST`.

SRC is a Hugging Face directory, Meta's directory (params.json, consolidated.*.pth), a llama2.c .bin or a .gguf file.
The weights go through memory a shard at a time. DST appears when it is whole.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from llama_scratch.checkpoint.files import CheckpointError, exists, size, unreadable
from llama_scratch.checkpoint.hf_directory import read_checkpoint
from llama_scratch.checkpoint.hf_files import CONFIG, MAX_SHARD_SIZE, checkpoint_files
from llama_scratch.checkpoint.llama2c_file import read_llama2c
from llama_scratch.checkpoint.matching import own_dtype, read
from llama_scratch.checkpoint.meta_format import read_meta
from llama_scratch.checkpoint.meta_params import PARAMS
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.checkpoint.saving import replace_checkpoint
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and how."""

    source: tyro.conf.Positional[Path]
    """A Hugging Face directory, Meta's directory, a llama2.c .bin or a .gguf file."""
    destination: tyro.conf.Positional[Path]
    """The directory to make; it must not exist, or be empty."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What to store (default: the source's own; float32 where it is quantised)."""
    max_shard_size: int = MAX_SHARD_SIZE
    """Bytes a file; more weights than that are split."""
    llama_version: Literal["1", "2", "3", "3.1", "3.2"] | None = None
    """Which Llama a directory of Meta's holds (default: concluded from its sizes)."""
    check_finite: bool = False
    """Refuse NaN, infinity and mixed dtypes."""


def convert(config: ConvertConfig) -> Checkpoint:
    """Writes the directory; returns what was read. Raises CheckpointError for a bad source or an occupied
    destination, and OSError where it cannot be written; then there is no destination.
    """
    destination = config.destination
    if exists(destination) and not (destination.is_dir() and not any(destination.iterdir())):
        raise CheckpointError(f"{destination} is there already, expected nothing or an empty directory")
    checkpoint = open_source(config.source, config.llama_version)
    _, weights = Llama.fitted(checkpoint)
    own = own_dtype(checkpoint.config, weights)
    dtype = getattr(torch, config.dtype) if config.dtype else own
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(weights), desc="tensors", dynamic_ncols=True) as bar:

        def counted(weight: Weight) -> Tensor:
            tensor = read(weight, dtype, None, own if config.check_finite else None)
            bar.update()
            return tensor.contiguous()

        files = checkpoint_files(
            checkpoint.config, checkpoint.generation, weights, dtype, counted, config.max_shard_size
        )
        _write_directory(destination, lambda temporary: _fill(temporary, config.source, files))
    return checkpoint


def open_source(source: Path, llama_version: str | None = None) -> Checkpoint:
    """The checkpoint at `source`, whatever its format, weights unread. Raises CheckpointError."""
    if source.is_dir():
        if exists(source / CONFIG):
            return read_checkpoint(source)
        if exists(source / PARAMS):
            return read_meta(source, llama_version)
        raise CheckpointError(f"{source} holds neither {CONFIG} (Hugging Face) nor {PARAMS} (Meta)")
    size(source)
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unreadable(source, error) from None
    if magic == b"GGUF":
        return _read_gguf(source)
    if source.suffix == ".bin":
        return read_llama2c(source)
    raise CheckpointError(f"{source} is neither a directory nor GGUF, and no .bin of llama2.c by its name")


def _read_gguf(source: Path) -> Checkpoint:
    try:
        from llama_scratch.checkpoint.gguf_file import read_gguf  # the package is an extra
    except ImportError:
        raise CheckpointError(f"{source} needs the gguf package: pip install 'llama_scratch[gguf]'") from None
    return read_gguf(source)


def _fill(temporary: Path, source: Path, files: dict[str, Callable[[Path], object]]) -> None:
    replace_checkpoint(temporary, files)
    beside = source if source.is_dir() else source.parent
    for name in TOKENIZER_FILES:
        if (beside / name).is_file():
            shutil.copyfile(beside / name, temporary / name)


def _write_directory(destination: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` fill a directory beside it and renames that; what a killed conversion has left is removed."""
    for leftover in destination.parent.glob(f".{glob.escape(destination.name)}.*.converting"):
        shutil.rmtree(leftover)
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.converting")
    try:
        temporary.mkdir()
        fill(temporary)
        temporary.replace(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def summary(config: ConvertConfig, checkpoint: Checkpoint) -> str:
    """What was converted, and what was concluded on the way, in a few lines."""
    c = checkpoint.config
    lines = [
        f"{config.destination}: {c.num_hidden_layers} layers, hidden {c.hidden_size}, {len(checkpoint.weights)} tensors"
    ]
    if checkpoint.where.suffix == ".pth" and config.llama_version is None:
        guess = f"context {c.max_position_embeddings}, rotary {c.rope_parameters}"
        lines.append(f"concluded from params.json, which does not say it: {guess}; --llama-version overrules it")
    names = [name for name in TOKENIZER_FILES if (config.destination / name).exists()]
    what = (
        "the tokenizer inside a GGUF file is not converted" if checkpoint.where.suffix == ".gguf" else "none was there"
    )
    lines.append(f"tokenizer: copied {', '.join(names)}" if names else f"no tokenizer: {what}")
    return "\n".join(lines)


def main() -> None:
    """The command line: every field of ConvertConfig."""
    try:
        config = tyro.cli(ConvertConfig, prog="python -m llama_scratch.convert", description=__doc__)
        checkpoint = convert(config)
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(summary(config, checkpoint))


if __name__ == "__main__":
    main()
