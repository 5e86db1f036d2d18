"""A KVCache in the memory layout of the compiled step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from llama_scratch.fast import kernel
from llama_scratch.fast.pages import use_large_pages
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.kv_cache import KVCache, LayerCache
from llama_scratch.model.rotary import LENGTH_MATTERS, angles


class StaticLayerCache(LayerCache):
    """The cache of one layer, for a prompt through the textbook model."""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return values with contiguous channels: PyTorch's fused attention is three times as slow otherwise."""
        keys, values = super().append(k, v)
        return keys, v if self.filled == 0 else values.contiguous()


class StaticCache(KVCache):
    """A KVCache and what each step needs of every position.

    Values are stored with contiguous positions, (L, B, G, H, room), because a step sums along them
    (benchmarks/NOTES.md).
    """

    def __init__(
        self,
        config: LlamaConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(config, batch_size, max_length, dtype, device)
        use_large_pages([self.keys, self.by_channel])
        self.columns = torch.arange(max_length, device=device)
        self.rotations: Tensor | None = None  # of every position, (max_length, 2, H)
        if config.rope_parameters["rope_type"] not in LENGTH_MATTERS:
            self.rotations = kernel.sign_folded(angles(config, self.columns[:, None], torch.float32))
        self._set_buffers()

    @property
    def values(self) -> Tensor:
        """View of the values as (L, B, G, room, H)."""
        return self.by_channel.mT

    @values.setter
    def values(self, values: Tensor) -> None:
        self.by_channel = values.mT.contiguous()

    def __iter__(self) -> Iterator[LayerCache]:
        for keys, values in zip(self.keys, self.values, strict=True):
            yield StaticLayerCache(keys, values, self.length)

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        super().reorder(rows)
        self._set_buffers()

    def _set_buffers(self) -> None:
        """Set the arguments of a step: the buffers of each layer, and `rows` (max_length, B), the row of `rotations` of
        each text at each position without padding.
        """
        self.buffers = [*self.keys.unbind(), *self.by_channel.unbind()]
        self.rows = self.columns[:, None].repeat(1, self.keys.shape[1])
