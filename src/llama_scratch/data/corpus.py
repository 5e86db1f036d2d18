"""A text, prepared for training: tokenised once, and reused as long as neither the text nor the settings change.

    tokenizer/             learned from the training part only, or the one that was given
    training-00000.bin     tokens of all documents up to the held-out end of the text, each between BOS and EOS
    validation-00000.bin   tokens of the held-out end; one document may be cut in two
    validation.txt         the held-out end as text: bits per byte refer to its bytes
    manifest.json          what all this was made from, written last

The directory is filled under another name and renamed: a directory with a manifest is complete. Several processes may
share it: one prepares, those with the same settings wait for it, and files that a process has open do not change.
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
from llama_scratch.data.errors import DataError
from llama_scratch.data.formats import suffix
from llama_scratch.data.sizes import SIZES, Sizes
from llama_scratch.data.sources import TextChunk, find_files, python_documents, read_chunks
from llama_scratch.data.token_files import TokenArray, token_dtype, write_shards
from llama_scratch.tokenizer import Tokenizer, TokenizerError
from llama_scratch.tokenizer.settings import tokenizer_files

FORMAT = 2  # of the directory; increase it to prepare every text again
MANIFEST, TOKENIZER, VALIDATION_TEXT = "manifest.json", "tokenizer", "validation.txt"
OURS = re.compile(r"manifest\.json|validation\.txt|tokenizer|(training|validation)-\d{5}\.bin")
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class CorpusConfig:
    """Text to prepare, and how."""

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
    """Hash of the text and of everything that determines how it is tokenised and split."""
    validation_text: bytes = field(repr=False)
    """The held-out text, as UTF-8."""


def prepare(
    request: CorpusConfig,
    directory: Path,
    processes: int | None = None,
    context: int = 2,
    sizes: Sizes = SIZES,
) -> Corpus:
    """Open the corpus in `directory`, after preparing it with `processes` (None: one per core) unless it is there.

    Raises DataError or TokenizerError (also when a split has fewer than `context` tokens), or OSError. On error
    `directory` is unchanged.
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
            _make(request, files, origin, staging, processes, context, sizes)
        corpus = _ready(origin, directory, context)
    if corpus is None:
        raise DataError(f"{directory} was replaced by another process: give each its own --tokens-dir")
    return corpus


def digest(request: CorpusConfig, directory: Path) -> str:
    """Compute the digest of the corpus that `prepare` would return, without preparing it. Raises DataError."""
    files = find_files(request.data)
    return _digest(_origin(request, files, _read_manifest(directory)))


def _ready(origin: dict[str, Any], directory: Path, context: int) -> Corpus | None:
    """Open the corpus in `directory`; None if there is none, another one, or if it is replaced meanwhile."""
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
    """Raise DataError if `directory` holds anything but a corpus: it would be replaced as a whole."""
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory} is a file, expected a directory for the tokens: name another by --tokens-dir")
    others = sorted(path.name for path in directory.glob("*") if not OURS.fullmatch(path.name))
    if others:
        raise DataError(
            f"{directory} holds {others[0]}, which does not belong to a prepared text and would be lost: "
            "name a new directory by --tokens-dir"
        )


def _make(
    request: CorpusConfig,
    files: list[Path],
    origin: dict[str, Any],
    directory: Path,
    processes: int | None,
    context: int,
    sizes: Sizes,
) -> None:
    """Fill the empty directory."""

    chats = Chats(request.tokenizer)

    def chunks(what: str, total: int | None = None) -> Iterator[TextChunk]:
        return _with_progress(read_chunks(files, request.text_field, chats, sizes), what, total)

    characters = sum(len(chunk.text) for chunk in chunks("reading"))
    held_out = min(int(request.val_fraction * characters), sizes.validation)
    if not held_out:
        raise DataError(
            f"{characters} characters of text are too few to hold out a fraction of {request.val_fraction}: "
            "give more text"
        )

    def chunks_of(part: str, what: str) -> Iterator[TextChunk]:
        for chunk_part, chunk in split(chunks(what, characters), characters - held_out):
            if chunk_part == part:
                yield chunk

    tokenizer = _tokenizer(request, (chunk.text for chunk in chunks_of(TRAINING, "learning the tokenizer")))
    if characters < sizes.single_process:
        processes = 1
    # without a tokenizer.json: SentencePiece itself gives the same ids faster
    tokenizer.save_pretrained(directory / TOKENIZER, json=request.tokenizer is not None)
    texts = {
        TRAINING: chunks_of(TRAINING, "tokenising"),
        VALIDATION: _copied(chunks_of(VALIDATION, "tokenising the held-out text"), directory / VALIDATION_TEXT),
    }
    shards = {
        part: write_shards(
            directory,
            part,
            encode_all(text, directory / TOKENIZER, processes or os.cpu_count() or 1, request.tokenizer),
            sizes.shard,
        )
        for part, text in texts.items()
    }
    content = {"origin": origin, "vocab_size": tokenizer.vocab_size, "shards": shards}
    write_json(directory / MANIFEST, content)
    _open(directory, content, context)  # check that it can be opened and is long enough


def split(chunks: Iterable[TextChunk], boundary: int) -> Iterator[tuple[str, TextChunk]]:
    """Yield each chunk with its part. The chunk that contains the boundary, after that many characters, is cut; a
    conversation is held out as a whole.
    """
    done = 0
    for chunk in chunks:
        cut = min(max(boundary - done, 0), len(chunk.text))
        done += len(chunk.text)
        if chunk.messages is not None:
            yield (TRAINING if done <= boundary else VALIDATION), chunk
            continue
        if cut or not chunk.text:
            yield TRAINING, TextChunk(chunk.text[:cut], chunk.ends or done >= boundary)
        if cut < len(chunk.text):
            yield VALIDATION, TextChunk(chunk.text[cut:], chunk.ends)


def _tokenizer(request: CorpusConfig, training: Iterable[str]) -> Tokenizer:
    if request.tokenizer is not None:
        return Tokenizer.from_pretrained(request.tokenizer)
    return Tokenizer.train(training, request.vocab_size)


def _copied(chunks: Iterable[TextChunk], path: Path) -> Iterator[TextChunk]:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk.text.encode())
            yield chunk


def _with_progress(chunks: Iterator[TextChunk], what: str, total: int | None) -> Iterator[TextChunk]:
    """Show a progress bar if it takes longer than two seconds."""
    with tqdm(total=total, desc=what, unit=" characters", unit_scale=True, delay=2, leave=False) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk.text))


def _origin(request: CorpusConfig, files: list[Path], manifest: dict[str, Any] | None) -> dict[str, Any]:
    """Collect everything that the corpus depends on.

    Files whose size and mtime match the manifest are assumed unchanged; all others are hashed.
    """
    entries = manifest["origin"]["files"] if manifest is not None else []
    known = {entry["path"]: entry for entry in entries if isinstance(entry, dict)}  # the built-in text is a hash only
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
        status = file.stat()
        state = {"path": str(file.absolute()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        if all(known.get(key) == value for key, value in state.items()):
            return known
        with file.open("rb") as opened:
            return state | {"kind": suffix(file), "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _tokenizer_digest(directory: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in tokenizer_files(directory))).hexdigest()


def _digest(origin: dict[str, Any]) -> str:
    """Hash the content of the files, not their paths."""
    files = [(entry["kind"], entry["sha256"]) if isinstance(entry, dict) else entry for entry in origin["files"]]
    return hashlib.sha256(repr(sorted((origin | {"files": files}).items())).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    """Read the manifest; None if there is none, or if it is not of this format."""
    try:
        manifest = read_json(directory / MANIFEST)
        return manifest if _is_manifest(manifest) else None
    except (CheckpointError, KeyError, TypeError, ValueError):
        return None


def _is_manifest(content: Any) -> bool:
    """Return True for a complete manifest. Raises KeyError or TypeError for some that are not."""
    origin = content["origin"]
    files = all(isinstance(entry, str) or {"path", "kind", "sha256"} <= set(entry) for entry in origin["files"])
    shards = [shard for part in (TRAINING, VALIDATION) for shard in content["shards"][part]]
    counts = all(isinstance(name, str) and isinstance(count, int) for name, count in shards)
    return origin["format"] == FORMAT and files and counts and isinstance(content["vocab_size"], int)


def _open(directory: Path, manifest: dict[str, Any], context: int) -> Corpus:
    training = _tokens(directory, manifest, TRAINING, context)
    validation = _tokens(directory, manifest, VALIDATION, context)
    tokenizer = Tokenizer.from_pretrained(directory / TOKENIZER)
    try:
        text = (directory / VALIDATION_TEXT).read_bytes()
    except FileNotFoundError as error:
        raise _damaged(directory, Path(error.filename)) from None
    return Corpus(directory, tokenizer, training, validation, _digest(manifest["origin"]), text)


def _tokens(directory: Path, manifest: dict[str, Any], part: str, context: int) -> TokenArray:
    dtype = token_dtype(manifest["vocab_size"])
    shards = manifest["shards"][part]
    for name, count in shards:
        path = directory / name
        if not path.exists() or path.stat().st_size != count * dtype.itemsize:
            raise _damaged(directory, path)
    tokens = TokenArray([directory / name for name, _ in shards], dtype)
    if len(tokens) < context:
        raise DataError(f"{len(tokens)} tokens of {part} text are fewer than --seq-len {context}: give more text")
    return tokens


def _damaged(directory: Path, path: Path) -> DataError:
    return DataError(f"{path} has been changed or removed: remove {directory}, and it will be prepared again")
