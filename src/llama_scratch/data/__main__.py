"""Tokenise a text for training: `python -m llama_scratch.data --tokens-dir DIR --data PATH ...`.

Training does this itself when it starts. This command is for a large text that several runs share: prepare it once,
then give each run the same --data, --text-field, --val-fraction and --vocab-size, and `--tokens-dir DIR`.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from llama_scratch.command_line import flag, one_line_errors, parse, this_python
from llama_scratch.data.corpus import VALIDATION_TEXT, CorpusConfig, prepare
from llama_scratch.data.sources import find_files


@dataclass(frozen=True)
class Options(CorpusConfig):
    """Command-line options."""

    tokens_dir: Path = Path("tokens")
    """Directory to write; if it already holds this text, prepared the same way, nothing is done."""
    num_workers: int | None = None
    """Worker processes (default: one per core)."""


def main() -> None:
    """Run the command line, on which every field of Options is a flag."""
    with one_line_errors():
        options = parse(Options, "python -m llama_scratch.data", __doc__)
        started = time.perf_counter()
        request = CorpusConfig(**{name: getattr(options, name) for name in CorpusConfig.__dataclass_fields__})
        corpus = prepare(request, options.tokens_dir, options.num_workers)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in find_files(request.data)) / 1e6
        held_out = (corpus.directory / VALIDATION_TEXT).stat().st_size
        print(
            f"{len(corpus.training):,} tokens to train on, {len(corpus.validation):,} held out for validation "
            f"({held_out:,} bytes of text)"
        )
        print(
            f"{size:.1f} MB of files in {seconds:.1f} s ({size / seconds:.1f} MB/s), tokenised in {corpus.directory}/"
        )
        print(f"train on it: {_training_command(options)}")


def _training_command(options: Options) -> str:
    """Return the command that trains on the prepared text, with the same settings: others would prepare it again."""
    words = ["-m", "llama_scratch.train", "--tokens-dir", str(options.tokens_dir)]
    if options.data:
        words += ["--data", *map(str, options.data)]
    if options.tokenizer is None:
        words += ["--vocab-size", str(options.vocab_size)]
    else:
        words += ["--init-from", str(options.tokenizer)]
    defaults = Options()
    for name in ("text_field", "val_fraction"):
        if getattr(options, name) != getattr(defaults, name):
            words += [flag(name), str(getattr(options, name))]
    return f"{this_python()} {shlex.join(words)}"


if __name__ == "__main__":
    main()
