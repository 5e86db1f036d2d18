r"""The keys and values of the tokens seen so far, so that a new token attends to them without computing them again.

    bytes = 2 · L · B · G · S · H · bytes per number       (2: keys and values; G, not N: grouped heads are stored once)

Everything is allocated once, to a stated length; keys are stored rotated. The length is one number for all layers and
moves once a model call, so one that fails half way leaves the cache as it was. No gradient flows through it.

Shazeer 2019, "Fast Transformer Decoding", section 2.4 (incremental inference).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from llama_scratch.model.config import Keys, LlamaConfig


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of a KVCache during one call: views of its buffers, and how many positions are filled."""

    keys: Keys
    values: Keys
    filled: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Keys, Keys]:
        """Writes k and v (B, G, T, H) behind what is filled, returns all. Raises ValueError if they do not fit."""
        (B, G, room, H), S = self.keys.shape, self.filled + k.shape[2]
        if room < S:
            raise ValueError(f"{self.filled} cached + {k.shape[2]} new positions exceed the cache's max_length {room}")
        if k.shape != (B, G, k.shape[2], H) or k.dtype != self.keys.dtype:
            raise ValueError(f"keys {tuple(k.shape)} {k.dtype} for a cache {tuple(self.keys.shape)} {self.keys.dtype}")
        self.keys[:, :, self.filled : S] = k.detach()
        self.values[:, :, self.filled : S] = v.detach()
        return self.keys[:, :, :S], self.values[:, :, :S]


class KVCache:
    """Room for `max_length` positions of `batch_size` rows. Iterating over it gives one LayerCache a layer."""

    def __init__(self, config: LlamaConfig, batch_size: int, max_length: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:  # fmt: skip
        shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def __iter__(self) -> Iterator[LayerCache]:
        return (LayerCache(k, v, self.length) for k, v in zip(self.keys, self.values, strict=True))

    def advance(self, T: int) -> None:
        """Counts T positions that every layer has appended."""
        self.length += T

    def crop(self, length: int) -> None:
        """Forgets all but the first `length` positions. Raises ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop to {length}: the cache holds {self.length} positions")
        self.length = length

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Makes row i what row `rows[i]` was (beam search, dropping finished rows); the batch size may change."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def reset(self) -> None:
        """Forgets everything: the next call starts a new sequence."""
        self.length = 0
