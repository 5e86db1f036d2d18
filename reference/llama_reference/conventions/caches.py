"""Caches that a model keeps inside its modules, and models that take one row at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llama_reference.implementation import Cache, Handle


class HeldCache:
    """The cache of a model that keeps it inside, in its modules' attributes of one name: modules with buffers, or
    dictionaries of tensors that grow. Tensors are (B, heads, places, H).

    Each HeldCache has copies of its own, which are in the model's place while they are used:

        with cache.inside(model, T): ...
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name, self.length = name, 0
        self.parts = {
            where: copy.deepcopy(getattr(module, name))
            for where, module in model.named_modules()
            if hasattr(module, name)
        }

    @contextmanager
    def inside(self, model: nn.Module, T: int) -> Iterator[Tensor]:
        """The next T places of the cache, which hold what the model is asked within; afterwards they are filled."""
        theirs = {where: getattr(model.get_submodule(where), self.name) for where in self.parts}
        try:
            self._put(model, self.parts)
            yield torch.arange(self.length, self.length + T)
            self.parts = {where: getattr(model.get_submodule(where), self.name) for where in self.parts}
            self.length += T
        finally:
            self._put(model, theirs)

    def _put(self, model: nn.Module, parts: Mapping[str, Any]) -> None:
        for where, part in parts.items():
            setattr(model.get_submodule(where), self.name, part)

    def crop(self, length: int) -> HeldCache:
        """The same cache, which goes on after `length` places."""
        for part in self.parts.values():
            if not isinstance(part, nn.Module):  # a module writes over what stands there
                part |= {key: x[:, :, :length] for key, x in part.items()}
        self.length = length
        return self

    def reorder(self, rows: Tensor) -> HeldCache:
        """The same cache, whose row i is what row rows[i] was."""
        for part in self.parts.values():
            kept = part._buffers if isinstance(part, nn.Module) else part
            kept |= {key: x[rows] for key, x in kept.items() if x is not None and x.dim() == 4}
        return self


class RowCache:
    """A cache for each row, of a model that takes rows of one length only; and which columns are real tokens.

    crop_row(a row's cache, length) is what crops one of them.
    """

    def __init__(self, rows: Sequence[Any], crop_row: Callable[[Any, int], Any]) -> None:
        self.rows, self.crop_row = list(rows), crop_row
        self.real = torch.ones(len(self.rows), 0, dtype=torch.bool)

    def crop(self, length: int) -> RowCache:
        """The same cache without the columns from `length` on."""
        self.real = self.real[:, :length]
        counts = self.real.sum(1).tolist()
        self.rows = [self.crop_row(row, count) for row, count in zip(self.rows, counts, strict=True)]
        return self

    def reorder(self, rows: Tensor) -> RowCache:
        """The same cache, whose row i is what row rows[i] was."""
        self.rows = [copy.deepcopy(self.rows[row]) for row in rows.tolist()]
        self.real = self.real[rows]
        return self


def row_by_row(
    call: Callable[[Tensor, Tensor, Any], Tensor], x: Tensor, positions: Tensor, mask: Tensor | None,
    cache: RowCache | None = None,
) -> Tensor:  # fmt: skip
    """call(x, positions, cache) of one row after another, of its real tokens alone; padding gets zeros.

    For a model that takes neither padding nor rows at different positions: these are not asked of it then.
    """
    real = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask[:, -x.shape[1] :].bool()
    answers: list[Tensor | None] = []
    for i, columns in enumerate(real):
        row = cache.rows[i] if cache is not None else None
        answers.append(call(x[i : i + 1, columns], positions[i : i + 1, columns], row) if columns.any() else None)
    if cache is not None:
        cache.real = torch.cat((cache.real, real), dim=1)
    if not real.any():  # a chunk of padding alone: one token, asked without a cache, tells the size of an answer
        like = call(x[:1, :1], torch.zeros_like(positions[:1, :1]), None)
        return like.new_zeros(*real.shape, *like.shape[2:])
    return _laid_out(answers, real)


def _laid_out(answers: Sequence[Tensor | None], real: Tensor) -> Tensor:
    """Each row's answers (1, real tokens, ...) in its real columns."""
    like = next(answer for answer in answers if answer is not None)
    rows = []
    for answer, columns in zip(answers, real, strict=True):
        row = like.new_zeros(len(columns), *like.shape[2:])
        rows.append(row if answer is None else row.index_put((columns,), answer[0]))
    return torch.stack(rows)


def token_by_token(step: Callable[[int, int], Sequence[float]], tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Logits (B, T, V) of a program that has no parts to ask: step(token, place) gives V numbers, and place 0 begins a
    new text. For ctypes: `lambda token, place: forward(token, place)[:V]`.
    """

    def row(x: Tensor, _positions: Tensor, _cache: Any) -> Tensor:
        return torch.tensor([[list(step(int(token), place)) for place, token in enumerate(x[0])]])

    return row_by_row(row, tokens, tokens, mask)


def crop(_handle: Handle, cache: Cache, length: int) -> Cache:
    """An adapter's function of this name."""
    return cache.crop(length)


def reorder(_handle: Handle, cache: Cache, rows: Tensor) -> Cache:
    """An adapter's function of this name."""
    return cache.reorder(rows)
