"""The tokenizer that goes with a converted checkpoint.

The files of a directory are copied. A GGUF file contains its tokenizer; llama2.c's is next to the weights, as
`tokenizer.bin`, or `tok512.bin` for a vocabulary of 512. A converted tokenizer is opened before it is kept, and must
fit the model: one with more tokens than the model belongs to another model.

Without a tokenizer_config.json, as with Meta's weights, one is made, and a tokenizer.json: from a tokenizer.model alone
transformers 5.23 makes other ids of nearly every text (Llama 2's), or cannot open it (Llama 3's).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from llama_scratch.checkpoint.files import exists
from llama_scratch.tokenizer import Tokenizer, TokenizerError
from llama_scratch.tokenizer.files import read_file
from llama_scratch.tokenizer.gguf_tokenizer import from_gguf
from llama_scratch.tokenizer.llama2c_tokenizer import from_llama2c
from llama_scratch.tokenizer.settings import tokenizer_files

SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
ENOUGH = ("tokenizer.json", "tokenizer.model")  # one of them makes a tokenizer
ADVICE = "give one with --tokenizer, a file or a directory"


class Carried(NamedTuple):
    """Files by name, and lines for the user: where they come from, or what is missing."""

    files: dict[str, bytes]
    lines: list[str]


def find_tokenizer(source: Path, vocab_size: int, chosen: Path | None = None) -> Carried:
    """Find the tokenizer of the checkpoint at `source`, or use the one at `chosen`.

    If it cannot be converted, return no files and a line that says why. Raises TokenizerError for one that was
    `chosen`.
    """
    if chosen is not None:
        return _read(chosen, vocab_size)
    if source.is_dir():
        return _copied(source)
    reasons = []
    for candidate in _candidates(source, vocab_size):
        try:
            return _read(candidate, vocab_size)
        except TokenizerError as error:
            reasons.append(str(error))
    return Carried({}, [f"no tokenizer: {'; '.join(reasons) or _absent(source, vocab_size)}; {ADVICE}"])


def _candidates(source: Path, vocab_size: int) -> list[Path]:
    """List where the tokenizer of a file of weights may be, the likeliest first."""
    names = _llama2c_names(source, vocab_size)
    inside = [source] if source.suffix != ".bin" else []
    siblings = [source.parent / name for name in names if exists(source.parent / name)]
    directory = [source.parent] if any(exists(source.parent / name) for name in ENOUGH) else []
    return [*inside, *directory, *siblings]


def _llama2c_names(source: Path, vocab_size: int) -> list[str]:
    return [f"tok{vocab_size}.bin", "tokenizer.bin"] if source.suffix == ".bin" else []


def _absent(source: Path, vocab_size: int) -> str:
    names = [*ENOUGH, *_llama2c_names(source, vocab_size)]
    return f"none of {', '.join(names)} is next to {source}"


def _read(path: Path, vocab_size: int) -> Carried:
    """Read the tokenizer at `path`, of any format, and check it. Raises TokenizerError."""
    remarks: list[str] = []
    if path.is_dir():
        files = _files(path)
    elif _starts_with(path, b"GGUF"):
        converted = from_gguf(path)
        if converted is None:
            raise TokenizerError(f"{path} has none inside: tokenizer.ggml.model is missing")
        files, remarks = converted
    elif path.suffix == ".bin":
        files = {"tokenizer.model": from_llama2c(path)}
    else:
        files = {"tokenizer.json" if path.suffix == ".json" else "tokenizer.model": read_file(path)}
    count, files = _opened(path, files)
    if count > vocab_size:
        raise TokenizerError(f"{path} has {count} tokens, but the model {vocab_size}: it is another model's")
    return Carried(files, [f"tokenizer: {', '.join(files)}, from {path}", *remarks])


def _copied(directory: Path) -> Carried:
    """Copy the files of a directory, and add those that are missing."""
    files = _files(directory)
    if not files.keys() & set(ENOUGH):
        return Carried(files, [f"no tokenizer: {directory} holds neither {' nor '.join(ENOUGH)}; {ADVICE}"])
    line = f"tokenizer: copied {', '.join(files)}"
    if SETTINGS in files:
        return Carried(files, [line])
    try:
        _, whole = _opened(directory, files)
    except TokenizerError as error:
        return Carried(files, [f"{line}, which cannot be opened: {error}"])
    return Carried(whole, [f"{line}; made {', '.join(sorted(whole.keys() - files.keys()))}"])


def _files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): read_file(path) for path in tokenizer_files(directory)}


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None


def _opened(path: Path, files: dict[str, bytes]) -> tuple[int, dict[str, bytes]]:
    """Open the tokenizer; return the number of tokens and its files, with settings if those were missing.

    Raises TokenizerError naming `path`.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            (Path(directory) / name).write_bytes(content)
        try:
            tokenizer = Tokenizer.from_pretrained(directory)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {str(error).replace(f'{directory}/', '')}") from None
        if SETTINGS not in files:
            tokenizer.save_pretrained(directory)
        return tokenizer.vocab_size, _files(Path(directory))
