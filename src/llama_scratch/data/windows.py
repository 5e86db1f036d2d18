"""Batches of windows: drawn at random to train on, one after another to be validated on.

The windows of a step are a function of (seed, step) and nothing else: there is no state to save, a run that goes on at
step n sees what it would have seen, and however many processes share a batch, together they see the same one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from llama_scratch.data.sources import DataError
from llama_scratch.data.token_files import TokenArray
from llama_scratch.model.config import Tokens
from llama_scratch.model.loss import IGNORED


def random_windows(tokens: TokenArray, batch: int, context: int, seed: int, step: int) -> Tokens:
    """The `batch` windows of `context` tokens of step 0, 1, …, every start equally likely; a window may reach from one
    document into the next. Raises DataError when there are fewer tokens than that.
    """
    if len(tokens) < context:
        raise DataError(f"{len(tokens)} tokens of text are fewer than the context of {context}: give more text")
    starts = np.random.default_rng((seed, step)).integers(len(tokens) - context + 1, size=batch)
    return torch.stack([tokens.read(start, context) for start in starts.tolist()])


def all_windows(tokens: TokenArray, batch: int, context: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Batches of (tokens, labels) in which every token but the first is a target exactly once."""
    stride = context - 1  # a window's last token is the next one's first: there it has no prediction yet
    starts = range(0, max(len(tokens) - 1, 1), stride)
    for i in range(0, len(starts), batch):
        rows = [tokens.read(start, context) for start in starts[i : i + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        yield padded.clamp(min=0), padded
