"""Pieces of documents -> ids, in as many processes as there are."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np

from llama_scratch.data.chats import Chats
from llama_scratch.data.sources import Piece
from llama_scratch.data.token_files import token_dtype
from llama_scratch.tokenizer import Tokenizer

AHEAD = 8  # pieces a process that wait for their turn


class Encoder:
    """Encodes a document in pieces: before its first one what the tokenizer puts before a text, BOS or nothing; after
    its last one what it puts there, or else EOS, so that documents are told apart. A conversation is encoded as its
    template says.
    """

    def __init__(self, tokenizer: Tokenizer, chats: Chats | None = None) -> None:
        self._tokenizer, self._chats = tokenizer, chats or Chats(None)
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._ends = tokenizer.ends or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])
        # some tokenizers put a space in front of a text; then that of a piece, which starts with one, must go
        self._adds_a_space = tokenizer.encode("a a") == 2 * tokenizer.encode("a")

    def __call__(self, piece: Piece, starts: bool) -> np.ndarray:
        if piece.messages is not None:
            return np.asarray(self._chats.encode(piece.messages), dtype=self._dtype)
        text = piece.text if starts or not self._adds_a_space else piece.text.removeprefix(" ")
        before = self._tokenizer.starts if starts else []
        return np.asarray([*before, *self._tokenizer.encode(text), *(self._ends if piece.ends else [])], self._dtype)


def encode_all(
    pieces: Iterable[Piece], tokenizer: Path, processes: int, chats: Path | None = None
) -> Iterator[np.ndarray]:
    """The ids of each piece, in order, by the tokenizer in that directory, those of conversations by the template in
    `chats`; a few pieces are in memory at a time.
    """
    if processes == 1:
        encoder = _encoder_of(tokenizer, chats)
        yield from (encoder(piece, starts) for piece, starts in _with_starts(pieces))
        return
    with ProcessPoolExecutor(processes, _context(), _load, (tokenizer, chats)) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for piece, starts in _with_starts(pieces):
            waiting.append(pool.submit(_encode, piece, starts))
            if len(waiting) > AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _context() -> multiprocessing.context.BaseContext:
    """Copies of a process that has imported this module and no more: torch is in memory once for all of them. A copy of
    the caller itself, which may have threads, might hang.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _with_starts(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, bool]]:
    starts = True
    for piece in pieces:
        yield piece, starts
        starts = piece.ends


def _encoder_of(tokenizer: Path, chats: Path | None) -> Encoder:
    return Encoder(Tokenizer.from_pretrained(tokenizer), Chats(chats))


_encoder: Encoder  # set in each worker process by _load


def _load(tokenizer: Path, chats: Path | None) -> None:
    global _encoder  # one a process: it cannot be sent along with every piece
    _encoder = _encoder_of(tokenizer, chats)


def _encode(piece: Piece, starts: bool) -> np.ndarray:
    return _encoder(piece, starts)
