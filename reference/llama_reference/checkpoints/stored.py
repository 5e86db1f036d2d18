"""A checkpoint as it is stored: fields, and tensors that are read one at a time, with what storing them has cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_reference.implementation import Config

UNCOMPARED = "rotary frequencies are not compared"
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Numbers:
    """A tensor as float32; `unit`, of the same shape, is how far quantisation may have moved each number."""

    values: Tensor
    unit: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Numbers:
        """Both moved about in the same way."""
        return Numbers(change(self.values), None if self.unit is None else change(self.unit))


@dataclass(frozen=True)
class Weight:
    """One tensor in transformers' layout. kind: float32, bfloat16, float16, or a name of quantisation, as Q8_0."""

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Numbers]


@dataclass(frozen=True)
class Stored:
    """fields: those of a LlamaConfig that the format has. rope_factors: what rotary frequencies are divided by, where a
    file has that and no type of scaling. pairs: whether neighbouring channels are paired in the files.
    remarks: what the files do not say.
    """

    path: Path
    format: str
    fields: Config
    weights: dict[str, Weight]
    pairs: bool = False
    rope_factors: Tensor | None = None
    remarks: tuple[str, ...] = ()


def kind_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def agree(one: Numbers, kind: str, other: Numbers, other_kind: str) -> Tensor:
    """Where two tensors hold the same numbers, up to what storing them costs: either is the other one, rounded to its
    own kind. Bool, of their shape.
    """
    if one.unit is not None or other.unit is not None:
        room = sum((x.unit for x in (one, other) if x.unit is not None), torch.zeros(()))
        return (one.values - other.values).abs() <= room
    rounded = one.values.to(FLOATS.get(other_kind, torch.float32)).float()
    widened = other.values.to(FLOATS.get(kind, torch.float32)).float()
    return _same(rounded, other.values) | _same(one.values, widened)


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one == other) | (one.isnan() & other.isnan())
