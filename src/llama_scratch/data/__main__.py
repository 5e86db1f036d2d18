"""Prepares a text to be trained on: `python -m llama_scratch.data --tokens DIR --data PATH ...`.

Training does it by itself; this is for a text so large that it is done once, ahead, and shared by many runs.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from llama_scratch.data.corpus import VALIDATION_TEXT, Request, prepare
from llama_scratch.data.sources import DataError, find_files
from llama_scratch.tokenizer import TokenizerError


@dataclass(frozen=True)
class Options(Request):
    """What to prepare, where, and by how many processes."""

    tokens: Path = Path("tokens")
    """The directory to fill; it is left alone where it holds this very text already."""
    processes: int | None = None
    """None: one for each core."""


def main() -> None:
    """The command line: every field of Options is a flag."""
    try:
        options = tyro.cli(Options, prog="python -m llama_scratch.data", description=__doc__)
        started = time.perf_counter()
        request = Request(**{name: getattr(options, name) for name in Request.__dataclass_fields__})
        corpus = prepare(request, options.tokens, options.processes)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in find_files(request.data)) / 1e6
        held_out = (corpus.directory / VALIDATION_TEXT).stat().st_size
    except (DataError, TokenizerError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{len(corpus.training):,} tokens to train on, {len(corpus.validation):,} held out ({held_out:,} bytes of text)"
    )
    print(f"{size:.1f} MB in {seconds:.1f} s, {size / seconds:.1f} MB/s; in {corpus.directory}/")


if __name__ == "__main__":
    main()
