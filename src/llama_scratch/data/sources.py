"""Text files, folders of them and globs, .jsonl, gzip of either -> a stream of pieces of documents.

No file is ever in memory as a whole: a document comes in pieces of about PIECE characters, cut in front of a single
space between two words, where no tokenizer that this project reads joins what stands on both sides.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl")
PIECE = 1 << 14  # characters: SentencePiece takes longer a character where it is given more
BLOCK = 1 << 18  # bytes read at a time
LINE = 1 << 26  # bytes that one line of a .jsonl may have: it is parsed in memory


class DataError(Exception):
    """Text that cannot be trained on; the message names the file, and the line, and says what to do."""


class Piece(NamedTuple):
    """A part of a document; `ends` with its last one."""

    text: str
    ends: bool


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, those that a glob such as notes/**/*.txt stands for, and every text file below the folders
    named, in the order of their names. Raises DataError where there is none.
    """
    return [file for path in paths for file in _files(path)]


def read_pieces(files: Sequence[Path], text_field: str) -> Iterator[Piece]:
    """The documents of `files`: one a file, in a .jsonl one a line, its `text_field`. Without files it is the text that
    ships with Python.

    Raises DataError for a file that is missing, empty, not UTF-8 or damaged, and for a line without that field.
    """
    if not files:
        yield from (Piece(text, True) for text in python_documents())
    for file in files:
        yield from _read(file, text_field)


def python_documents() -> list[str]:
    """The text that ships with Python, one document a topic of its language reference."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return [topics[name] for name in sorted(topics)]


def kind(file: Path) -> str:
    """The suffix that says what is in a file, gzip or not."""
    return Path(file.name.removesuffix(".gz")).suffix


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if kind(file) in SUFFIXES and file.is_file())
        if not files:
            names = ", ".join(SUFFIXES)
            raise DataError(f"{path} holds no text file ({names}, or these with .gz); name other files one by one")
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207  absolute ones too
        if not files:
            raise DataError(f"{path} matches no file")
        return files
    return [path]


def _read(path: Path, text_field: str) -> Iterator[Piece]:
    empty = True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            stream = _lines(path, file, text_field) if kind(path) == ".jsonl" else _cut(_decode(path, file))
            for piece in stream:
                empty = empty and not piece.text
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; unpack it again from its source") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if empty:
        raise DataError(f"{path} is empty; leave it out")


def _decode(path: Path, file: io.BufferedIOBase) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    while True:
        block = file.read(BLOCK)
        start = done - len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{path} is not UTF-8: byte {start + error.start}", error) from None
        if not block:
            return
        done += len(block)


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


def _lines(path: Path, file: io.BufferedIOBase, text_field: str) -> Iterator[Piece]:
    number = 0
    while line := file.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise DataError(f"{path}, line {number} is longer than {LINE:,} bytes; is it one JSON object a line?")
        if line.strip():
            yield from _cut([_field(f"{path}, line {number}", line, text_field)])


def _field(where: str, line: bytes, text_field: str) -> str:
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{where} is not UTF-8: byte {error.start}", error) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}; mend the line or take it out") from None
    if not isinstance(content, dict) or text_field not in content:
        found = f"the fields {sorted(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(f"{where} has no field {text_field!r} but {found:.200}; name the right one by --text-field")
    text = content[text_field]
    if not isinstance(text, str):
        raise DataError(f"{where}: {text_field!r} is {text!r:.80}, expected text; name another by --text-field")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text_field!r} holds half of a surrogate pair at {error.start}; mend it") from None
    return text


def _not_utf8(what: str, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{what} is 0x{error.object[error.start]:02x}; convert it, for instance with iconv")
