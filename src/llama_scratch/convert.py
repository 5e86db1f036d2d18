"""Convert any checkpoint of a Llama to a Hugging Face directory: `python -m llama_scratch.convert SRC DST`.

SRC is a Hugging Face directory, Meta's directory (params.json, consolidated.*.pth), a llama2.c .bin or a .gguf file.
Its tokenizer is converted, too, and the chat template of a .gguf file. One shard of the weights is in memory at a time.
DST appears when it is complete.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from llama_scratch.checkpoint.atomic import atomic_directory
from llama_scratch.checkpoint.files import CheckpointError, exists, unreadable
from llama_scratch.checkpoint.hf_directory import read_checkpoint
from llama_scratch.checkpoint.hf_files import CONFIG, MAX_SHARD_SIZE, checkpoint_files
from llama_scratch.checkpoint.hints import check_directory, refuse_pointer, what_is_there
from llama_scratch.checkpoint.llama2c_file import read_llama2c
from llama_scratch.checkpoint.matching import checkpoint_dtype, read
from llama_scratch.checkpoint.meta_format import read_meta
from llama_scratch.checkpoint.meta_params import PARAMS
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.checkpoint.saving import replace_checkpoint
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.command_line import one_line_errors, parse, this_python
from llama_scratch.dtypes import dtype_name
from llama_scratch.tokenizer.converting import ENOUGH, TEMPLATE, find_tokenizer


class Conversion(NamedTuple):
    """The checkpoint that was read, the dtype that was written, and remarks on the tokenizer."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    tokenizer: list[str]


@dataclass(frozen=True)
class ConvertConfig:
    """Command-line options."""

    source: tyro.conf.Positional[Path]
    """Hugging Face directory, Meta's directory, llama2.c .bin or .gguf file."""
    destination: tyro.conf.Positional[Path]
    """Directory to create; it must not exist, or must be empty."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the weights (default: the source's own; float32 if it is quantised)."""
    max_shard_size: int = MAX_SHARD_SIZE
    """Bytes per file; larger weights are split."""
    llama_version: Literal["1", "2", "3", "3.1", "3.2"] | None = None
    """Which Llama a directory of Meta's contains (default: inferred from its sizes)."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Key of the source's configuration to leave unread; may be given several times."""
    strip_prefix: str = ""
    """Prefix of the keys of a Hugging Face directory to remove, as in _orig_mod.model.norm.weight."""
    tokenizer: Path | None = None
    """Tokenizer to use instead of the source's own: llama2.c's tokenizer.bin, a .gguf file, a tokenizer.model, a
    tokenizer.json, or a directory with one."""
    check_finite: bool = False
    """Refuse NaN, infinity and mixed dtypes."""


def convert(config: ConvertConfig) -> Conversion:
    """Write the directory. A tokenizer of the source that cannot be converted is left out.

    Raises CheckpointError for an invalid source or an occupied destination, and OSError if it cannot be written; then
    there is no destination.
    """
    destination = config.destination
    _expect_free(destination)
    checkpoint = open_source(config.source, config.llama_version, config.ignore, config.strip_prefix)
    _, weights = Llama.empty_model_and_weights(checkpoint)
    own = checkpoint_dtype(checkpoint.config, weights)
    dtype = getattr(torch, config.dtype) if config.dtype else own
    tokenizer = find_tokenizer(config.source, checkpoint.config.vocab_size, config.tokenizer)
    total = sum(weight.numel() for weight in weights.values()) * dtype.itemsize
    with tqdm(total=total, desc="weights", unit="B", unit_scale=True, dynamic_ncols=True) as bar:

        def counted(weight: Weight) -> Tensor:
            tensor = read(weight, dtype, None, own if config.check_finite else None)
            bar.update(tensor.numel() * dtype.itemsize)
            return tensor.contiguous()

        files = checkpoint_files(
            checkpoint.config, checkpoint.generation, weights, dtype, counted, config.max_shard_size
        )
        with atomic_directory(destination) as made:
            _expect_free(destination)  # another process may have been first
            _fill(made, tokenizer.files, files)
    return Conversion(checkpoint, dtype, tokenizer.lines)


def _expect_free(destination: Path) -> None:
    if exists(destination) and not (destination.is_dir() and not any(destination.iterdir())):
        raise CheckpointError(f"{destination} exists already, expected nothing or an empty directory")


def open_source(
    source: Path, llama_version: str | None = None, ignore: tuple[str, ...] = (), strip_prefix: str = ""
) -> Checkpoint:
    """Open the checkpoint at `source`, of any format, without reading weights. Raises CheckpointError."""
    if source.is_dir():
        if exists(source / CONFIG):
            return read_checkpoint(source, ignore, strip_prefix)
        if exists(source / PARAMS):
            return read_meta(source, llama_version, ignore)
        wanted = f"neither {CONFIG} (Hugging Face) nor {PARAMS} (Meta)"
        raise CheckpointError(f"{source} has {wanted}: {what_is_there(source)}")
    if not exists(source):
        check_directory(source)
    refuse_pointer(source)
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise unreadable(source, error) from None
    if magic == b"GGUF":
        return _read_gguf(source, ignore)
    if source.suffix == ".bin":
        return read_llama2c(source)
    raise CheckpointError(f"{source} is neither a directory nor GGUF, nor named like a .bin of llama2.c")


def _read_gguf(source: Path, ignore: tuple[str, ...]) -> Checkpoint:
    try:
        from llama_scratch.checkpoint.gguf_file import read_gguf  # the package is an extra
    except ImportError:
        raise CheckpointError(f"{source} needs the gguf package: pip install 'llama_scratch[gguf]'") from None
    return read_gguf(source, ignore)


def _fill(temporary: Path, tokenizer: dict[str, bytes], files: dict[str, Callable[[Path], object]]) -> None:
    replace_checkpoint(temporary, files)
    for name, content in tokenizer.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).write_bytes(content)


def summary(config: ConvertConfig, conversion: Conversion) -> str:
    """Sum up in a few lines what was converted, and what was inferred."""
    checkpoint = conversion.checkpoint
    c = checkpoint.config
    count = len(checkpoint.weights)
    size = sum(path.stat().st_size for path in config.destination.glob("*.safetensors"))
    lines = [
        f"{config.destination}: {c.num_hidden_layers} layers, hidden {c.hidden_size}, vocabulary {c.vocab_size}",
        f"weights: {count} tensors, {size / 1e6:,.1f} MB in {dtype_name(conversion.dtype)}",
    ]
    if checkpoint.where.name.startswith("consolidated.") and config.llama_version is None:
        guess = f"context {c.max_position_embeddings}, rotary {c.rope_parameters}"
        lines.append(f"inferred (params.json does not state it): {guess}; --llama-version overrides it")
    lines += conversion.tokenizer
    if any((config.destination / name).exists() for name in ENOUGH):
        how = "--chat" if (config.destination / TEMPLATE).exists() else "--prompt 'Once upon a time'"
        lines.append(f"try it: {this_python()} -m llama_scratch.generate {shlex.quote(str(config.destination))} {how}")
    return "\n".join(lines)


def main() -> None:
    """Run the command line, on which every field of ConvertConfig is a flag."""
    with one_line_errors():
        config = parse(ConvertConfig, "python -m llama_scratch.convert", __doc__)
        print(summary(config, convert(config)))


if __name__ == "__main__":
    main()
