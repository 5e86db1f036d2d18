"""Text -> documents -> tokens -> batches."""

from __future__ import annotations

import importlib
import lzma
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llama_scratch.config import Tokens
from llama_scratch.loss import IGNORED
from llama_scratch.tokenizer import Tokenizer

SUFFIXES = (".txt", ".md", ".rst", ".py")


class DataError(Exception):
    """Text that cannot be trained on; the message names the file and says what to do."""


def read_documents(paths: Sequence[Path]) -> list[str]:
    """One document a file: the files named, and every text file below the folders named, in the order of their names.

    Without paths it is the text that ships with Python, one document a topic of its language reference.
    Raises DataError for a path that is missing, empty or not UTF-8.
    """
    if not paths:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        return [topics[name] for name in sorted(topics)]
    return [_read(file) for path in paths for file in _files(path)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{path} holds no text file ({', '.join(SUFFIXES)}); name other files one by one")
    return files


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}; "
                        "convert it, for instance with iconv") from None  # fmt: skip
    if not text:
        raise DataError(f"{path} is empty")
    return text


def hold_out(documents: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """The documents in two parts, the second holding the last `share` of all characters; one document may be cut."""
    wanted = int(share * sum(map(len, documents)))
    training, validation = list(documents), list[str]()
    while wanted > 0:
        document = training.pop()
        kept = max(len(document) - wanted, 0)
        validation.insert(0, document[kept:])
        training += [document[:kept]] if kept else []
        wanted -= len(document) - kept
    return training, validation


def tokenize(documents: Sequence[str], tokenizer: Tokenizer) -> Int[Tensor, " tokens"]:
    """All documents in one row, each between BOS and EOS."""
    ids = [np.asarray(tokenizer.encode(document, bos=True, eos=True), dtype=np.int32) for document in documents]
    return torch.from_numpy(np.concatenate(ids)).long()


def random_windows(tokens: Int[Tensor, " tokens"], batch: int, context: int, generator: torch.Generator) -> Tokens:
    """`batch` windows of `context` tokens, every start equally likely; a window may reach from one document into the
    next. Raises DataError when there are fewer tokens than that.
    """
    if len(tokens) < context:
        raise DataError(f"{len(tokens)} tokens of text are fewer than the context of {context}: give more text")
    starts = torch.randint(len(tokens) - context + 1, (batch,), generator=generator)
    return torch.stack([tokens[start : start + context] for start in starts.tolist()])


def all_windows(tokens: Int[Tensor, " tokens"], batch: int, context: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Batches of (tokens, labels) in which every token but the first is a target exactly once."""
    stride = context - 1  # a window's last token is the next one's first: there it has no prediction yet
    starts = range(0, max(len(tokens) - 1, 1), stride)
    for i in range(0, len(starts), batch):
        rows = [tokens[start : start + context] for start in starts[i : i + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        yield padded.clamp(min=0), padded


def unigram_bits_per_byte(text: bytes) -> float:
    """The entropy of single bytes, drawn as often as they stand in `text`: what knowing no context costs."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def xz_bits_per_byte(text: bytes) -> float:
    """What `xz -9` makes of `text`, a compressor that knows nothing but the text itself."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
