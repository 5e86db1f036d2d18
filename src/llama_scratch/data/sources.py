"""Text files, JSON files, folders of them and globs, gzipped or not -> a stream of chunks of documents.

Files are never loaded as a whole: a document is divided into chunks of about Sizes.chunk characters, cut before a
single space between two words, where none of the supported tokenizers merges across the cut.
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
from llama_scratch.data.formats import encoding, not_text, suffix
from llama_scratch.data.records import Conversation, Record, from_lines, from_values
from llama_scratch.data.sizes import SIZES, Sizes

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".ndjson")  # of the files that are read in a folder
RECORDS = {".jsonl": from_lines, ".ndjson": from_lines, ".json": from_values}


class TextChunk(NamedTuple):
    """A part of a document; `ends` is True for its last one. A conversation is one chunk, encoded from `messages`."""

    text: str
    ends: bool
    messages: Conversation | None = None


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Find the named files, those that match a glob such as notes/**/*.txt, and every text file below a named folder,
    in the order of their names. Raises DataError if there are none.
    """
    return [file for path in paths for file in _files(path)]


def read_chunks(
    files: Sequence[Path], text_field: str, chats: Chats | None = None, sizes: Sizes = SIZES
) -> Iterator[TextChunk]:
    """Read the documents of `files`, or without files the text that ships with Python.

    A text file is one document, and so is each object of a JSON file (data/records.py), in which `chats` renders
    conversations. Raises DataError for a file that is missing, empty, damaged or not text, and for an object without
    text.
    """
    if not files:
        yield from (TextChunk(text, True) for text in python_documents())
    for file in files:
        yield from _read(file, text_field, chats or Chats(None), sizes)


def python_documents() -> list[str]:
    """Text that ships with Python: one document per topic of its language reference."""
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
        raise DataError(f"{path} is not a regular file, and must be read several times: save it as a file first")
    return [path]


def _is_meant(name: Path) -> bool:
    """Return True for a text file of a folder, unless it is hidden or in a hidden folder."""
    return suffix(name).lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)


def _not_empty(path: Path, files: list[Path]) -> list[Path]:
    """Drop empty files, such as the __init__.py of a package. Raises DataError if all are empty."""
    not_empty = [file for file in files if file.stat().st_size]
    if not not_empty:
        raise DataError(f"{path} has {len(files)} text files, and all of them are empty")
    return not_empty


def _read(path: Path, text_field: str, chats: Chats, sizes: Sizes) -> Iterator[TextChunk]:
    empty = True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            blocks = decode(path, file, sizes.block)
            read = RECORDS.get(suffix(path).lower())
            if read is None:
                chunks = cut(blocks, sizes.chunk)
            else:
                chunks = _documents(read(path, blocks, text_field, sizes.line), chats, sizes.chunk)
            for chunk in chunks:
                empty = empty and not chunk.text
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; unpack it again from its source") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if empty:
        raise DataError(f"{path} is empty; leave it out")


def _documents(records: Iterator[Record], chats: Chats, size: int) -> Iterator[TextChunk]:
    for where, document in records:
        if isinstance(document, str):
            yield from cut([document], size)
            continue
        try:
            yield TextChunk(chats.render(document), True, document)
        except DataError as error:
            raise DataError(f"{where} is a conversation: {error}") from None


def decode(path: Path, file: io.BufferedIOBase, size: int) -> Iterator[str]:
    """Decode the text in blocks of `size` bytes, without its byte-order mark.

    Not by io.TextIOWrapper: its errors lack the byte and the line, which are what one needs to mend the file.
    """
    block = file.read(size)
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
        block = file.read(size)


def cut(blocks: Iterable[str], size: int) -> Iterator[TextChunk]:
    """Divide a document into chunks of at most `size` characters, and the rest of a block."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > size:
            chunk = rest[start : start + size + 1]
            place = _between_words(chunk)
            yield TextChunk(chunk[:place], False)
            start += place
        rest = rest[start:]
    yield TextChunk(rest, True)


def _between_words(text: str) -> int:
    """Index of the last single space between two words; if there is none, of the last character."""
    place = text.rfind(" ", 0, -1)
    while place > 0 and (text[place - 1].isspace() or text[place + 1].isspace()):
        place = text.rfind(" ", 0, place)
    return place if place > 0 else len(text) - 1
