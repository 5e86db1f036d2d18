"""A text, prepared to be trained on: tokenised once, and reused for as long as neither it nor what is asked changes.

    tokenizer/             learned from the training part alone, or the one that was asked for
    training-00000.bin     tokens of every document but the end of the text, each between BOS and EOS
    validation-00000.bin   those of the last share of its characters, held out; one document may be cut in two
    validation.txt         the same as text: its bytes are what bits per byte are counted in
    manifest.json          what all this was made from, written last

The directory is filled under another name and renamed: whatever has a manifest is complete. Several processes may
share it: one prepares, those that want the same wait for it, and what a process has open stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llama_scratch.checkpoint.atomic import atomic_directory, locked
from llama_scratch.checkpoint.files import CheckpointError, read_json, write_json
from llama_scratch.data.chats import Chats
from llama_scratch.data.encoding import encode_all
from llama_scratch.data.sources import DataError, Piece, find_files, kind, python_documents, read_pieces
from llama_scratch.data.token_files import TokenArray, token_dtype, write_shards
from llama_scratch.tokenizer import Tokenizer, TokenizerError
from llama_scratch.tokenizer.settings import JSON, tokenizer_files

FORMAT = 2  # of the directory: a number larger by one makes every text be prepared anew
MANIFEST, TOKENIZER, VALIDATION_TEXT = "manifest.json", "tokenizer", "validation.txt"
OURS = re.compile(r"manifest\.json|validation\.txt|tokenizer|(training|validation)-\d{5}\.bin")
MOST_HELD_OUT = 1 << 20  # characters: every evaluation reads all of them
SMALL = 1 << 23  # characters that one process has tokenised before others have started
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class CorpusConfig:
    """What to prepare, and how."""

    data: tuple[Path, ...] = ()
    """Text to prepare: files, folders or globs of text or JSON (.jsonl, .ndjson, .json), plain or gzipped (.gz).
    Without it: the documentation that comes with Python."""
    text_field: str = "text"
    """JSON field that holds the text. Conversations ("messages", "conversations") and Alpaca's "instruction", "input",
    "output" are found without it and need the chat template of --tokenizer."""
    val_fraction: float = 0.1
    """Fraction of the text, taken from its end, that is used for validation only; at most a million characters."""
    vocab_size: int = 1024
    """Vocabulary size of the tokenizer that is learned from the text, unless --tokenizer gives one."""
    tokenizer: Path | None = None
    """Hugging Face directory whose tokenizer and chat template to use (default: learn a tokenizer)."""


@dataclass(frozen=True)
class Corpus:
    """The tokenizer, and both parts of the text as tokens."""

    directory: Path
    tokenizer: Tokenizer
    training: TokenArray
    validation: TokenArray
    digest: str
    """Of the text and of everything that decides how it is tokenised and split."""
    validation_text: bytes = field(repr=False)
    """What is held out, as UTF-8."""


def prepare(request: CorpusConfig, directory: Path, processes: int | None = None, context: int = 2) -> Corpus:
    """The corpus in `directory`, made by `processes` (None: as many as there are cores) unless it is there already.

    Raises DataError or TokenizerError, saying what to do, when a part has fewer tokens than `context` too, and OSError;
    then `directory` is as it was.
    """
    files = find_files(request.data)
    origin = _origin(request, files, _read_manifest(directory))
    corpus = _ready(origin, directory, context)
    if corpus is not None:
        return corpus
    with locked(Path(os.path.realpath(directory))) as alone:
        corpus = _ready(origin, directory, context)  # another process may have made it meanwhile
        if corpus is not None:
            return corpus
        _expect_ours(directory)
        with atomic_directory(directory, held=alone) as staging:
            _make(request, files, origin, staging, processes, context)
        corpus = _ready(origin, directory, context)
    if corpus is None:
        raise DataError(f"{directory} was replaced by another process: give each its own --tokens-dir")
    return corpus


def digest(request: CorpusConfig, directory: Path) -> str:
    """The digest of the corpus that `prepare` would return, without preparing it. Raises DataError."""
    files = find_files(request.data)
    return _digest(_origin(request, files, _read_manifest(directory)))


def _ready(origin: dict[str, Any], directory: Path, context: int) -> Corpus | None:
    """The corpus in `directory`; None where there is none, another one, or another one by the time it is open."""
    manifest = _read_manifest(directory)
    if manifest is None or _digest(manifest["origin"]) != _digest(origin):
        return None
    try:
        corpus = _open(directory, manifest, context)
    except (DataError, TokenizerError, OSError):
        if _read_manifest(directory) != manifest:  # it was being replaced
            return None
        raise
    return corpus if _read_manifest(directory) == manifest else None


def _expect_ours(directory: Path) -> None:
    """Raise DataError where `directory` holds anything but a corpus: it would be replaced as a whole."""
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory} is a file, expected a directory for the tokens: name another by --tokens-dir")
    others = sorted(path.name for path in directory.glob("*") if not OURS.fullmatch(path.name))
    if others:
        raise DataError(
            f"{directory} holds {others[0]}, which does not belong to a prepared text and would be lost: "
            "name a new directory by --tokens-dir"
        )


def _make(
    request: CorpusConfig, files: list[Path], origin: dict[str, Any], place: Path, processes: int | None, context: int
) -> None:
    """Fills the empty directory `place`."""

    chats = Chats(request.tokenizer)

    def pieces(what: str, total: int | None = None) -> Iterator[Piece]:
        return _shown(read_pieces(files, request.text_field, chats), what, total)

    characters = sum(len(piece.text) for piece in pieces("reading"))
    held_out = min(int(request.val_fraction * characters), MOST_HELD_OUT)
    if not held_out:
        found = f"{characters} characters of text are too few"
        raise DataError(f"{found} to hold out a share of {request.val_fraction}: give more text")

    def of(part: str, what: str) -> Iterator[Piece]:
        parts = split(pieces(what, characters), characters - held_out)
        return (piece for where, piece in parts if where == part)

    tokenizer = _tokenizer(request, (piece.text for piece in of(TRAINING, "learning pieces")))
    processes = 1 if characters < SMALL else processes or os.cpu_count() or 1
    tokenizer.save_pretrained(place / TOKENIZER)
    if request.tokenizer is None:  # SentencePiece itself is faster than a tokenizer.json with the same ids
        (place / TOKENIZER / JSON).unlink()
    texts = {
        TRAINING: of(TRAINING, "tokenising"),
        VALIDATION: _copied(of(VALIDATION, "tokenising what is held out"), place / VALIDATION_TEXT),
    }
    shards = {
        part: write_shards(place, part, encode_all(text, place / TOKENIZER, processes, request.tokenizer))
        for part, text in texts.items()
    }
    content = {"origin": origin, "vocab_size": tokenizer.vocab_size, "shards": shards}
    write_json(place / MANIFEST, content)
    _open(place, content, context)  # it can be opened and is long enough


def split(pieces: Iterable[Piece], boundary: int) -> Iterator[tuple[str, Piece]]:
    """Each piece with the part that it belongs to; the one in which the first `boundary` characters end is cut, or, if
    it is a conversation, held out, so that something is.
    """
    done = 0
    for piece in pieces:
        cut = min(max(boundary - done, 0), len(piece.text))
        done += len(piece.text)
        if piece.messages is not None:
            yield (TRAINING if done <= boundary else VALIDATION), piece
            continue
        if cut or not piece.text:
            yield TRAINING, Piece(piece.text[:cut], piece.ends or done >= boundary)
        if cut < len(piece.text):
            yield VALIDATION, Piece(piece.text[cut:], piece.ends)


def _tokenizer(request: CorpusConfig, training: Iterable[str]) -> Tokenizer:
    if request.tokenizer is not None:
        return Tokenizer.from_pretrained(request.tokenizer)
    return Tokenizer.train(training, request.vocab_size)


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


def _origin(request: CorpusConfig, files: list[Path], manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Everything that the corpus depends on. A file of the size and time of change that are in the manifest is taken
    to have the content that it had then; others are read and hashed.
    """
    entries = manifest["origin"]["files"] if manifest is not None else []
    known = {entry["path"]: entry for entry in entries if isinstance(entry, dict)}  # the built-in text has only a hash
    tokenizer = _tokenizer_digest(request.tokenizer) if request.tokenizer else request.vocab_size
    built_in = [] if files else [hashlib.sha256("\0".join(python_documents()).encode()).hexdigest()]
    return {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "text_field": request.text_field,
        "val_fraction": request.val_fraction,
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
    return hashlib.sha256(b"".join(path.read_bytes() for path in tokenizer_files(directory))).hexdigest()


def _digest(origin: dict[str, Any]) -> str:
    """Of what the text is, not of where it lies."""
    files = [(entry["kind"], entry["sha256"]) if isinstance(entry, dict) else entry for entry in origin["files"]]
    return hashlib.sha256(repr(sorted((origin | {"files": files}).items())).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    """None where there is none, or where it is not a manifest of ours."""
    try:
        manifest = read_json(directory / MANIFEST)
        return manifest if _is_manifest(manifest) else None
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


def _is_manifest(content: Any) -> bool:
    """Whether all that is read of it is there. Raises KeyError and TypeError, too, where it is not."""
    origin = content["origin"]
    files = all(isinstance(entry, str) or {"path", "kind", "sha256"} <= set(entry) for entry in origin["files"])
    shards = [shard for part in (TRAINING, VALIDATION) for shard in content["shards"][part]]
    counts = all(isinstance(name, str) and isinstance(count, int) for name, count in shards)
    return origin["format"] == FORMAT and files and counts and isinstance(content["vocab_size"], int)


def _open(directory: Path, manifest: dict[str, Any], context: int) -> Corpus:
    training = _row(directory, manifest, TRAINING, context)
    validation = _row(directory, manifest, VALIDATION, context)
    tokenizer = Tokenizer.from_pretrained(directory / TOKENIZER)
    try:
        text = (directory / VALIDATION_TEXT).read_bytes()
    except FileNotFoundError as error:
        raise _damaged(directory, Path(error.filename)) from None
    return Corpus(directory, tokenizer, training, validation, _digest(manifest["origin"]), text)


def _row(directory: Path, manifest: dict[str, Any], part: str, context: int) -> TokenArray:
    dtype, shards = token_dtype(manifest["vocab_size"]), manifest["shards"][part]
    for name, count in shards:
        path = directory / name
        if not path.exists() or path.stat().st_size != count * dtype.itemsize:
            raise _damaged(directory, path)
    row = TokenArray([directory / name for name, _ in shards], dtype)
    if len(row) < context:
        raise DataError(f"{len(row)} tokens of {part} text are fewer than --seq-len {context}: give more text")
    return row


def _damaged(directory: Path, path: Path) -> DataError:
    return DataError(f"{path} is not as it was written: remove {directory}, and it is prepared anew")
