"""Logits of the whole model: padded batch in one pass, without padding, and in chunks over a cache."""

from itertools import accumulate

import torch
from torch import Tensor

from llama_reference.implementation import CachedLlama, Handle
from llama_reference.questions import chunks
from llama_reference.standard import cases
from llama_reference.standard.cases import LENGTH, SPLIT, Case

VARIANTS = tuple(cases.VARIANTS)
IN_CHUNKS = "in chunks"
NOT_DIFFERENTIATED = frozenset({IN_CHUNKS})


def ask(implementation: CachedLlama, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    real = case.real
    answers = {}
    if case.profile.padding:
        answers["padded batch"] = implementation.llama(handle, case.tokens, case.positions, case.mask)[real]
    answers["no padding"] = implementation.llama(handle, case.tokens, case.positions, None)
    if case.profile.positions and "rotary" not in case.profile.parts:
        # Where no part answers alone: what far positions bury in their rounding, and what they leave (longrope).
        first = torch.arange(LENGTH).repeat(case.rows, 1)
        answers["first positions"] = implementation.llama(handle, case.tokens, first, None)
    if case.profile.cache:
        answers[IN_CHUNKS] = in_chunks(implementation, handle, case)[real]
    return answers


def in_chunks(implementation: CachedLlama, handle: Handle, case: Case, split: tuple[int, ...] = SPLIT) -> Tensor:
    """The padded batch, a chunk at a time over a cache."""
    cache = implementation.new_cache(handle, case.rows, LENGTH)

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        return implementation.llama(handle, x, positions, mask, cache)

    edges = (0, *accumulate(split))
    return chunks.in_chunks(call, edges, case.tokens, case.positions, case.mask)
