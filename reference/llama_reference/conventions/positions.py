"""What a model has no room for: fields of a configuration, rows at different positions; and other masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config


def only(config: Config, **supported: Any) -> None:
    """Refuse a configuration unless each of these fields has this value, or one of these where it is a tuple."""
    for field, value in supported.items():
        found = config[field] if field in config else config["rope_parameters"].get(field)
        if found not in (value if isinstance(value, tuple) else (value,)):
            raise NotImplementedError(f"{field} is {value!r} only")


def input_pos(positions: Tensor) -> Tensor:
    """The positions (T,) of every row of (B, T). Refuses rows that differ."""
    if not (positions == positions[:1]).all():
        raise NotImplementedError("one row of positions for all")
    return positions[0]


def offset(positions: Tensor) -> int:
    """The position at which every row of (B, T) begins. Refuses rows that differ, and positions with gaps."""
    row = input_pos(positions)
    if not (row == row[0] + torch.arange(len(row))).all():
        raise NotImplementedError("consecutive positions only")
    return int(row[0])


def from_zero(positions: Tensor) -> None:
    """Refuse positions (B, T) other than 0, 1, 2 and so on: of a model that counts them itself."""
    if offset(positions):
        raise NotImplementedError("positions from 0 on only")


def visible(T: int, S: int, mask: Tensor | None = None) -> Tensor:
    """(B or 1, 1, T, S): True where a query, one of the last T of S positions, may look. (Masked where True: ~.)"""
    causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None]
    return causal if mask is None else causal & mask[:, None, None].bool()


def additive(look: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to scores: 0 where a query may look, the dtype's lowest number elsewhere."""
    return torch.zeros(look.shape, dtype=dtype).masked_fill(~look, torch.finfo(dtype).min)
