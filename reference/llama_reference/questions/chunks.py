"""A call that is split into chunks, as over a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def in_chunks(call: Call, edges: Sequence[int], x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """The answers of call(x, positions, mask) to one chunk after another, joined along T.

    A chunk begins at every edge but the last, which is the length of all. Its mask reaches from the
    first position to its last one.
    """
    parts = []
    for start, stop in pairwise(edges):
        seen = None if mask is None else mask[:, :stop]
        parts.append(call(x[:, start:stop], positions[:, start:stop], seen))
    return torch.cat(parts, dim=1)
