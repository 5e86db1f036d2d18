"""The cache: one text in chunks of every kind, over two caches in turn, each row padded by another length; and one
cache that is cropped, reordered, poisoned and started anew.
"""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from llama_reference.implementation import Handle, KVCache, offers
from llama_reference.standard.cases import LENGTH, Case

VARIANTS = ("hard", "one group", "a group a head")
SPLITS = {"one by one": (1,) * 12, "prefill, then one by one": (36, *(1,) * 12), "unequal chunks": (5, 3, 1, 30, 9)}
ROWS = (2, 0, 4, 1, 2)  # a circle of four, so that the inverse is another one; row 3 is dropped, row 2 doubled


def ask(implementation: KVCache, case: Case) -> dict[str, Tensor]:
    """Answers over a cache that is cropped or reordered are left out where that is not offered."""
    handle = implementation.build(case.config, case.state, case.dtype)
    answers: dict[str, Tensor] = {}
    for label, split in SPLITS.items():
        first, second = in_turn(implementation, handle, case, split)
        real = case.real[:, : sum(split)]
        answers |= {f"chunks, {label}": first[real], f"chunks, {label}, the other cache": second[real.flip(0)]}
    with suppress(NotImplementedError):
        for label, answer in handled(implementation, handle, case):
            answers[label] = answer
    return answers


def in_turn(implementation: KVCache, handle: Handle, case: Case, split: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The batch over one cache, and the batch upside down over another, a chunk of each at a time.

    Of a single row the other text is the row from its end on.
    """
    caches = [implementation.new_cache(handle, case.rows, LENGTH) for _ in range(2)]
    others = case.tokens.flip(0) if case.profile.batch else case.tokens.flip(1)
    texts = ((case.tokens, case.positions, case.mask), (others, case.positions.flip(0), _flipped(case.mask)))
    parts: list[list[Tensor]] = [[], []]
    start = 0
    for T in split:
        now = slice(start, start + T)
        for cache, part, (tokens, positions, mask) in zip(caches, parts, texts, strict=True):
            chunk = tokens[:, now], positions[:, now], _until(mask, now.stop)
            part.append(implementation.llama(handle, *chunk, cache))
        start += T
    return torch.cat(parts[0], dim=1), torch.cat(parts[1], dim=1)


def _flipped(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.flip(0)


def _until(mask: Tensor | None, stop: int) -> Tensor | None:
    return None if mask is None else mask[:, :stop]


def handled(implementation: KVCache, handle: Handle, case: Case) -> Iterator[tuple[str, Tensor]]:
    """Logits of what is appended to a cache after each thing that one does to caches."""
    if not (offers(implementation, "crop") and offers(implementation, "reorder")):
        return
    crop, reorder = implementation.crop, implementation.reorder
    inputs = case.tokens, case.positions, case.mask
    cache = implementation.new_cache(handle, case.rows, LENGTH)

    def append(start: int, stop: int) -> Tensor:
        tokens, positions, mask = inputs
        return implementation.llama(handle, tokens[:, start:stop], positions[:, start:stop], _until(mask, stop), cache)

    append(0, 30)
    cache = crop(handle, cache, 13)
    yield "chunks, after a crop", append(13, 20)
    if case.profile.batch:
        cache = reorder(handle, cache, torch.tensor(ROWS))
        mask = None if case.mask is None else case.mask[[*ROWS]]
        inputs = case.tokens[[*ROWS]], case.positions[[*ROWS]], mask
        yield "chunks, after a reorder", append(20, 25)
    cache = crop(handle, cache, 0)
    inputs = case.tokens, case.positions, case.mask
    yield "chunks, after a reset", append(0, 16)[case.real[:, :16]]
    if "attention" not in case.profile.parts:
        return
    for layer in range(case.config["num_hidden_layers"]):
        x = case.normal(case.rows, 9, case.config["hidden_size"]) * torch.nan
        implementation.attention(handle, layer, x, case.positions[:, 16:25], _until(case.mask, 25), cache)
        cache = crop(handle, cache, 16)
    yield "chunks, after NaN was cropped away", append(16, 20)
