"""The cache: one text in chunks of every kind, over two caches in turn, each row padded by another length."""

from typing import Any

import torch
from torch import Tensor

from reference.cases import LENGTH, PADS, Case

VARIANTS = ("hard", "one group", "a group a head")
SPLITS = {"one by one": (1,) * 12, "prefill, then one by one": (36, *(1,) * 12), "unequal chunks": (5, 3, 1, 30, 9)}


def ask(implementation: Any, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    answers: dict[str, Tensor] = {}
    for label, split in SPLITS.items():
        first, second = in_turn(implementation, handle, case, split)
        real = case.mask[:, : sum(split)].bool()
        answers |= {f"chunks, {label}": first[real], f"chunks, {label}, the other cache": second[real.flip(0)]}
    return answers


def in_turn(implementation: Any, handle: Any, case: Case, split: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The batch over one cache, and the batch upside down over another, a chunk of each at a time."""
    caches = [implementation.new_cache(handle, len(PADS), LENGTH) for _ in range(2)]
    parts: list[list[Tensor]] = [[], []]
    start = 0
    for T in split:
        now = slice(start, start + T)
        chunk = case.tokens[:, now], case.positions[:, now], case.mask[:, : now.stop]
        for cache, part, inputs in zip(caches, parts, (chunk, [x.flip(0) for x in chunk]), strict=True):
            part.append(implementation.llama(handle, *inputs, cache))
        start += T
    return torch.cat(parts[0], dim=1), torch.cat(parts[1], dim=1)
