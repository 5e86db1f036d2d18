"""Text files, JSON files, folders of them and globs, gzip of either -> a stream of pieces of documents.

No file is ever in memory as a whole: a document comes in pieces of about PIECE characters, cut in front of a single
space between two words, where no tokenizer that this project reads joins what stands on both sides.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import importlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llama_scratch.data.chats import Chats
from llama_scratch.data.errors import DataError
from llama_scratch.data.formats import encoding, kind, not_text
from llama_scratch.data.records import Conversation, Record, from_lines, from_values

__all__ = ["DataError", "Piece", "find_files", "kind", "python_documents", "read_pieces"]

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".ndjson")  # of the files that a folder stands for
RECORDS = {".jsonl": from_lines, ".ndjson": from_lines, ".json": from_values}
PIECE = 1 << 14  # characters: SentencePiece takes longer a character where it is given more
BLOCK = 1 << 18  # bytes read at a time


class Piece(NamedTuple):
    """A part of a document; `ends` with its last one. A conversation is never cut: its `messages` give its ids."""

    text: str
    ends: bool
    messages: Conversation | None = None


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, those that a glob such as notes/**/*.txt stands for, and every text file below the folders
    named, in the order of their names. Raises DataError where there is none.
    """
    return [file for path in paths for file in _files(path)]


def read_pieces(files: Sequence[Path], text_field: str, chats: Chats | None = None) -> Iterator[Piece]:
    """The documents of `files`: a text file is one, and so is each object of a JSON file (data/records.py), where
    `chats` writes conversations. Without files it is the text that ships with Python.

    Raises DataError for a file that is missing, empty, damaged or not text, and for an object without text.
    """
    if not files:
        yield from (Piece(text, True) for text in python_documents())
    for file in files:
        yield from _read(file, text_field, chats or Chats(None))


def python_documents() -> list[str]:
    """The text that ships with Python, one document a topic of its language reference."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return [topics[name] for name in sorted(topics)]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if _is_meant(file.relative_to(path)) and file.is_file()]
        if not found:
            names = ", ".join(SUFFIXES)
            raise DataError(f"{path} holds no text file ({names}, or these with .gz); name other files one by one")
        return _not_empty(path, found)
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207  absolute ones too
        if not found:
            raise DataError(f"{path} matches no file")
        return _not_empty(path, found)
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file, and is read several times: save it as a file first")
    return [path]


def _is_meant(name: Path) -> bool:
    """Whether a folder that is named stands for this file of it: text, and neither hidden nor in a hidden folder."""
    return kind(name).lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)


def _not_empty(path: Path, files: list[Path]) -> list[Path]:
    """Files that nobody named, such as the __init__.py of a package, may be empty, but not all of them."""
    found = [file for file in files if file.stat().st_size]
    if not found:
        raise DataError(f"{path} stands for {len(files)} files, and all of them are empty")
    return found


def _read(path: Path, text_field: str, chats: Chats) -> Iterator[Piece]:
    empty = True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            blocks = _decode(path, file)
            read = RECORDS.get(kind(path).lower())
            for piece in _cut(blocks) if read is None else _documents(read(path, blocks, text_field), chats):
                empty = empty and not piece.text
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; unpack it again from its source") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if empty:
        raise DataError(f"{path} is empty; leave it out")


def _documents(records: Iterator[Record], chats: Chats) -> Iterator[Piece]:
    for where, document in records:
        if isinstance(document, str):
            yield from _cut([document])
            continue
        try:
            yield Piece(chats.render(document), True, document)
        except DataError as error:
            raise DataError(f"{where} is a conversation: {error}") from None


def _decode(path: Path, file: io.BufferedIOBase) -> Iterator[str]:
    """The text in blocks, without its byte-order mark."""
    block = file.read(BLOCK)
    name, done = encoding(path, block)
    block, lines = block[done:], 1
    decoder = codecs.getincrementaldecoder(name)()
    while True:
        start = done - len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            lines += error.object[: error.start].decode(name).count("\n")
            raise not_text(path, name, start + error.start, error.object[error.start], lines) from None
        yield text
        if not block:
            return
        lines += text.count("\n")
        done += len(block)
        block = file.read(BLOCK)


def _cut(blocks: Iterable[str]) -> Iterator[Piece]:
    rest = ""
    for block in blocks:
        rest, start = rest + block, 0
        while len(rest) - start > PIECE:
            piece = rest[start : start + PIECE + 1]
            place = _between_words(piece)
            yield Piece(piece[:place], False)
            start += place
        rest = rest[start:]
    yield Piece(rest, True)


def _between_words(text: str) -> int:
    """Where the last single space between two words stands; the end without its last character, if there is none."""
    place = text.rfind(" ", 0, -1)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(" ", 0, place)
    return place if place > 0 else len(text) - 1
