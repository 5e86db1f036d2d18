"""Chunks of documents -> ids, in several processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from llama_scratch.data.chats import Chats
from llama_scratch.data.sources import TextChunk
from llama_scratch.data.token_files import token_dtype
from llama_scratch.tokenizer import Tokenizer

AHEAD = 8  # chunks per process that are submitted at a time


class Encoder:
    """Encodes documents chunk by chunk.

    A document starts with what the tokenizer puts before a text (BOS or nothing), and ends with what it puts after one,
    or else with EOS, which separates documents. A conversation is encoded by its template.
    """

    def __init__(self, tokenizer: Tokenizer, chats: Chats | None = None) -> None:
        self._tokenizer = tokenizer
        self._chats = chats or Chats(None)
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._ends = tokenizer.ends or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])
        # some tokenizers add a space before a text; then the space with which a chunk starts is removed
        self._adds_a_space = tokenizer.encode("a a") == 2 * tokenizer.encode("a")

    def __call__(self, chunk: TextChunk, starts: bool) -> np.ndarray:
        if chunk.messages is not None:
            return np.asarray(self._chats.encode(chunk.messages), dtype=self._dtype)
        text = chunk.text if starts or not self._adds_a_space else chunk.text.removeprefix(" ")
        before = self._tokenizer.starts if starts else []
        after = self._ends if chunk.ends else []
        return np.asarray([*before, *self._tokenizer.encode(text), *after], self._dtype)


def encode_all(
    chunks: Iterable[TextChunk], tokenizer: Path, processes: int, chats: Path | None = None
) -> Iterator[np.ndarray]:
    """Encode each chunk, in order, by the tokenizer in one directory, and conversations by the template in another.

    Only a few chunks are in memory at a time.
    """
    if processes == 1:
        encoder = _encoder_of(tokenizer, chats)
        yield from (encoder(chunk, starts) for chunk, starts in _with_starts(chunks))
        return
    with ProcessPoolExecutor(processes, _context(), _load, (tokenizer, chats)) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for chunk, starts in _with_starts(chunks):
            waiting.append(pool.submit(_encode, chunk, starts))
            if len(waiting) > AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _context() -> multiprocessing.context.BaseContext:
    """Make a forkserver that preloads only this module, so that workers share torch's memory.

    A plain fork of a caller with threads could deadlock.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _with_starts(chunks: Iterable[TextChunk]) -> Iterator[tuple[TextChunk, bool]]:
    starts = True
    for chunk in chunks:
        yield chunk, starts
        starts = chunk.ends


def _encoder_of(tokenizer: Path, chats: Path | None) -> Encoder:
    return Encoder(Tokenizer.from_pretrained(tokenizer), Chats(chats))


_encoder: Encoder  # set in each worker process by _load


def _load(tokenizer: Path, chats: Path | None) -> None:
    global _encoder  # one per process: sending it with every chunk would cost too much
    _encoder = _encoder_of(tokenizer, chats)


def _encode(chunk: TextChunk, starts: bool) -> np.ndarray:
    return _encoder(chunk, starts)
