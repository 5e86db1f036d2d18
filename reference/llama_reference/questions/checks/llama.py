"""Logits of the whole model: padded batch in one pass, without padding, and in chunks over a cache."""

from typing import Any

import torch
from torch import Tensor

from llama_reference.standard import cases
from llama_reference.standard.cases import LENGTH, PADS, SPLIT, Case

VARIANTS = tuple(cases.VARIANTS)
IN_CHUNKS = "in chunks"
NOT_DIFFERENTIATED = frozenset({IN_CHUNKS})


def ask(implementation: Any, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    real = case.mask.bool()
    return {
        "padded batch": implementation.llama(handle, case.tokens, case.positions, case.mask)[real],
        "no padding": implementation.llama(handle, case.tokens, case.positions, None),
        IN_CHUNKS: in_chunks(implementation, handle, case)[real],
    }


def in_chunks(implementation: Any, handle: Any, case: Case, split: tuple[int, ...] = SPLIT) -> Tensor:
    """The padded batch, a chunk at a time over a cache."""
    cache = implementation.new_cache(handle, len(PADS), LENGTH)
    parts, start = [], 0
    for T in split:
        now = slice(start, start + T)
        tokens, positions, mask = case.tokens[:, now], case.positions[:, now], case.mask[:, : now.stop]
        parts.append(implementation.llama(handle, tokens, positions, mask, cache))
        start += T
    return torch.cat(parts, dim=1)
