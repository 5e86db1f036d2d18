"""A text, prepared to be trained on: tokenised once, and reused for as long as neither it nor what is asked changes.

    tokenizer/             learned from the training part alone, or the one that was asked for
    training-00000.bin     tokens of every document but the end of the text, each between BOS and EOS
    validation-00000.bin   those of the last share of its characters, held out; one document may be cut in two
    validation.txt         the same as text: its bytes are what bits per byte are counted in
    manifest.json          what all this was made from, written last

The directory is filled under another name and renamed: whatever has a manifest is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llama_scratch.checkpoint.files import CheckpointError, flush, read_json, write_json
from llama_scratch.data.encoding import encode_all
from llama_scratch.data.sources import DataError, Piece, find_files, kind, python_documents, read_pieces
from llama_scratch.data.token_files import TokenRow, token_dtype, write_shards
from llama_scratch.tokenizer import Tokenizer, TokenizerError
from llama_scratch.tokenizer.source import JSON

FORMAT = 1  # of the directory: a number larger by one makes every text be prepared anew
MANIFEST, TOKENIZER, VALIDATION_TEXT = "manifest.json", "tokenizer", "validation.txt"
STAGING = ".preparing-"
MOST_HELD_OUT = 1 << 20  # characters: every evaluation reads all of them
SMALL = 1 << 23  # characters that one process has tokenised before others have started
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class Request:
    """What to prepare. tokenizer: a directory that holds one; None: learn one of `vocab_size` pieces."""

    data: tuple[Path, ...] = ()
    text_field: str = "text"
    held_out: float = 0.1
    vocab_size: int = 1024
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Corpus:
    """The tokenizer, and both parts of the text as tokens."""

    directory: Path
    tokenizer: Tokenizer
    training: TokenRow
    validation: TokenRow
    digest: str
    """Of the text and of everything that decides how it is tokenised and split."""

    @property
    def validation_text(self) -> bytes:
        """What is held out, as UTF-8."""
        return (self.directory / VALIDATION_TEXT).read_bytes()


def prepare(request: Request, directory: Path, processes: int | None = None, context: int = 2) -> Corpus:
    """The corpus in `directory`, made by `processes` (None: as many as there are cores) unless it is there already.

    Raises DataError or TokenizerError, saying what to do, when a part has fewer tokens than `context` too, and OSError;
    then `directory` is as it was.
    """
    files = find_files(request.data)
    manifest = _read_manifest(directory)
    origin = _origin(request, files, manifest)
    if manifest is None or _digest(manifest["origin"]) != _digest(origin):
        _make(request, files, origin, directory, processes, context)
        manifest = _read_manifest(directory)
    assert manifest is not None
    return _open(directory, manifest, context)


def _make(
    request: Request, files: list[Path], origin: dict[str, Any], directory: Path, processes: int | None, context: int
) -> None:
    """Prepares beside `directory`, then takes its place."""

    def pieces(what: str, total: int | None = None) -> Iterator[Piece]:
        return _shown(read_pieces(files, request.text_field), what, total)

    characters = sum(len(piece.text) for piece in pieces("reading"))
    held_out = min(int(request.held_out * characters), MOST_HELD_OUT)
    if not held_out:
        found = f"{characters} characters of text are too few"
        raise DataError(f"{found} to hold out a share of {request.held_out}: give more text")

    def of(part: str, what: str) -> Iterator[Piece]:
        parts = split(pieces(what, characters), characters - held_out)
        return (piece for where, piece in parts if where == part)

    tokenizer = _tokenizer(request, (piece.text for piece in of(TRAINING, "learning pieces")))
    processes = 1 if characters < SMALL else processes or os.cpu_count() or 1
    with _staging(directory) as staging:
        tokenizer.save_pretrained(staging / TOKENIZER)
        if request.tokenizer is None:  # SentencePiece itself is faster than a tokenizer.json with the same ids
            (staging / TOKENIZER / JSON).unlink()
        texts = {
            TRAINING: of(TRAINING, "tokenising"),
            VALIDATION: _copied(of(VALIDATION, "tokenising what is held out"), staging / VALIDATION_TEXT),
        }
        shards = {
            part: write_shards(staging, part, encode_all(text, staging / TOKENIZER, processes))
            for part, text in texts.items()
        }
        content = {"origin": origin, "vocab_size": tokenizer.vocab_size, "shards": shards}
        for path in staging.rglob("*"):
            flush(path)
        write_json(staging / MANIFEST, content)
        _open(staging, content, context)  # it can be opened and is long enough


def split(pieces: Iterable[Piece], boundary: int) -> Iterator[tuple[str, Piece]]:
    """Each piece with the part that it belongs to; the one in which the first `boundary` characters end is cut."""
    done = 0
    for piece in pieces:
        cut = min(max(boundary - done, 0), len(piece.text))
        done += len(piece.text)
        if cut or not piece.text:
            yield TRAINING, Piece(piece.text[:cut], piece.ends or done >= boundary)
        if cut < len(piece.text):
            yield VALIDATION, Piece(piece.text[cut:], piece.ends)


def _tokenizer(request: Request, training: Iterable[str]) -> Tokenizer:
    if request.tokenizer is not None:
        return Tokenizer.from_pretrained(request.tokenizer)
    try:
        return Tokenizer.train(training, request.vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{error}; try another --vocab-size, or more text") from None


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A new directory that takes the place of `directory` in the end, or is gone."""
    fresh = [path for path in (directory.parent, *directory.parent.parents) if not path.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in directory.parent.glob(f"{STAGING}{directory.name}-*"):
        shutil.rmtree(leftover)
    staging = directory.with_name(f"{STAGING}{directory.name}-{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        yield staging
        if directory.exists():
            directory.rename(staging / "replaced")
        staging.rename(directory)
        flush(directory.parent)
        shutil.rmtree(directory / "replaced", ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for path in fresh:
            with contextlib.suppress(OSError):  # no longer empty
                path.rmdir()
        raise


def _copied(pieces: Iterable[Piece], path: Path) -> Iterator[Piece]:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece.text.encode())
            yield piece


def _shown(pieces: Iterator[Piece], what: str, total: int | None) -> Iterator[Piece]:
    """With a live line, where it takes long enough to be read."""
    with tqdm(total=total, desc=what, unit=" characters", unit_scale=True, delay=2, leave=False) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece.text))


def _origin(request: Request, files: list[Path], manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Everything that the corpus depends on. A file of the size and time of change that are in the manifest is taken
    to have the content that it had then; others are read and hashed.
    """
    known = {entry["path"]: entry for entry in (manifest or {}).get("origin", {}).get("files", ())}
    tokenizer = _tokenizer_digest(request.tokenizer) if request.tokenizer else request.vocab_size
    built_in = [] if files else [hashlib.sha256("\0".join(python_documents()).encode()).hexdigest()]
    return {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "text_field": request.text_field,
        "held_out": request.held_out,
        "files": built_in or [_entry(file, known.get(str(file.absolute()), {})) for file in files],
    }


def _entry(file: Path, known: dict[str, Any]) -> dict[str, Any]:
    try:
        found = file.stat()
        state = {"path": str(file.absolute()), "bytes": found.st_size, "modified_ns": found.st_mtime_ns}
        if all(known.get(key) == value for key, value in state.items()):
            return known
        with file.open("rb") as opened:
            return state | {"kind": kind(file), "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _tokenizer_digest(directory: Path) -> str:
    names = sorted(path for path in directory.glob("tokenizer*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in names)).hexdigest()


def _digest(origin: dict[str, Any]) -> str:
    """Of what the text is, not of where it lies."""
    files = [(entry["kind"], entry["sha256"]) if isinstance(entry, dict) else entry for entry in origin["files"]]
    return hashlib.sha256(repr(sorted((origin | {"files": files}).items())).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    """None where there is none, or where it is no manifest of ours."""
    try:
        manifest = read_json(directory / MANIFEST)
        return manifest if manifest["origin"]["format"] == FORMAT else None
    except (CheckpointError, KeyError, TypeError):
        return None


def _open(directory: Path, manifest: dict[str, Any], context: int) -> Corpus:
    training, validation = (_row(directory, manifest, part, context) for part in (TRAINING, VALIDATION))
    tokenizer = Tokenizer.from_pretrained(directory / TOKENIZER)
    return Corpus(directory, tokenizer, training, validation, _digest(manifest["origin"]))


def _row(directory: Path, manifest: dict[str, Any], part: str, context: int) -> TokenRow:
    dtype, shards = token_dtype(manifest["vocab_size"]), manifest["shards"][part]
    for name, count in shards:
        path = directory / name
        if not path.exists() or path.stat().st_size != count * dtype.itemsize:
            raise DataError(f"{path} is not as it was written: remove {directory}, and it is prepared anew")
    row = TokenRow([directory / name for name, _ in shards], dtype)
    if len(row) < context:
        raise DataError(f"{len(row)} tokens of {part} text are fewer than --context {context}: give more text")
    return row
