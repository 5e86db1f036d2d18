"""Batches of sequences: drawn at random for training, one after another for validation.

The sequences of a step are a function of (seed, step) and nothing else: there is no state to save, a run resumed at
step n sees the same batches, and so do any number of processes that share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from llama_scratch.data.errors import DataError
from llama_scratch.data.token_files import TokenArray
from llama_scratch.model.config import Tokens
from llama_scratch.model.loss import IGNORED


def random_sequences(tokens: TokenArray, batch: int, context: int, seed: int, step: int) -> Tokens:
    """Draw `batch` sequences of `context` tokens for step 0, 1, …; every start is equally likely, and a sequence may
    extend over several documents. Raises DataError if there are fewer than `context` tokens.
    """
    if len(tokens) < context:
        raise DataError(f"{len(tokens)} tokens of text are fewer than the context of {context}: give more text")
    starts = np.random.default_rng((seed, step)).integers(len(tokens) - context + 1, size=batch)
    return torch.stack([tokens.read(start, context) for start in starts.tolist()])


def all_sequences(tokens: TokenArray, batch: int, context: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield batches of (tokens, labels) in which every token but the first is a target exactly once."""
    stride = context - 1  # the last token of a sequence is the first of the next, which predicts its successor
    starts = range(0, max(len(tokens) - 1, 1), stride)
    for i in range(0, len(starts), batch):
        rows = [tokens.read(start, context) for start in starts[i : i + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        yield padded.clamp(min=0), padded
