r"""Keys and values of the tokens so far, kept so that no token needs them computed again.

    bytes = 2 · L · B · G · S · H · bytes per number    (2: keys and values; G, not N: shared heads)

Everything is allocated once, for a given length; keys are stored rotated. All layers share one
length, advanced once per model call; a call that fails part-way leaves the cache unchanged.
Gradients do not flow through it.

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
    """One layer's part of a KVCache during one call: views of its buffers, and their fill level."""

    keys: Keys
    values: Keys
    filled: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Keys, Keys]:
        """Write k and v (B, G, T, H) after the filled positions and return all keys and values.

        Raises ValueError if they do not fit."""
        B, G, room, H = self.keys.shape
        T = k.shape[2]
        S = self.filled + T
        if room < S:
            found = f"{self.filled} cached + {T} new positions"
            raise ValueError(f"{found} exceed the cache's max_length {room}")
        if k.shape != (B, G, T, H) or k.dtype != self.keys.dtype:
            expected = f"a cache {tuple(self.keys.shape)} {self.keys.dtype}"
            raise ValueError(f"keys {tuple(k.shape)} {k.dtype} for {expected}")
        self.keys[:, :, self.filled : S] = k.detach()
        self.values[:, :, self.filled : S] = v.detach()
        return self.keys[:, :, :S], self.values[:, :, :S]


class KVCache:
    """Room for `max_length` positions of `batch_size` rows. Iterate for a LayerCache per layer."""

    def __init__(
        self,
        config: LlamaConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        L, G, H = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.keys = torch.empty(L, batch_size, G, max_length, H, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def __iter__(self) -> Iterator[LayerCache]:
        for keys, values in zip(self.keys, self.values, strict=True):
            yield LayerCache(keys, values, self.length)

    def advance(self, T: int) -> None:
        """Count T positions that every layer has appended."""
        self.length += T

    def crop(self, length: int) -> None:
        """Forget all but the first `length` positions. Raises ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop to {length}: the cache holds {self.length} positions")
        self.length = length

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Replace row i by row `rows[i]`, as beam search needs; the batch size may change."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]

    def reset(self) -> None:
        """Forget everything: the next call starts a new sequence."""
        self.length = 0
