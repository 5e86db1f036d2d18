"""Compiles one kind of step: `python -m llama_scratch.fast.compiler KIND PATH`; compiled.py starts it.

The step is exported with tensors that nobody writes, which take no memory; PATH becomes its machine code, a shared
library, beside its sources.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from llama_scratch.fast import kernel
from llama_scratch.fast.compiled import Kind
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.llama import Llama

TEXTS, FILLED, ROOM, ROTATIONS = 3, 7, 19, 23  # of the example; all different, so that no two sizes are taken for one


class Step(nn.Module):
    """`kernel.logits` as what torch.export takes; every tensor is an argument, the weights too."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self._shape = config.rms_norm_eps, config.hidden_act

    def forward(self, weights: tuple[Any, ...], *surroundings: Any) -> Tensor:
        return kernel.logits(kernel.Weights(*weights), *self._shape, *surroundings)


def example(config: LlamaConfig, kind: Kind) -> tuple[Any, ...]:
    """Arguments of a call."""
    dtype = getattr(torch, kind.dtype)
    with torch.device("meta"):
        model = Llama(config)
    model = model.to(dtype).to_empty(device="cpu").requires_grad_(False)
    B, G, H = TEXTS if kind.several else 1, config.num_key_value_heads, config.head_dim
    keys, values = (
        [torch.empty(B, G, *shape, dtype=dtype) for _ in range(config.num_hidden_layers)]
        for shape in ((ROOM, H), (H, ROOM))
    )
    mask = torch.ones(B, FILLED, dtype=torch.bool) if kind.padded else None
    tokens, rows = torch.zeros(B, 1, dtype=torch.long), torch.zeros(B, dtype=torch.long)
    rotations, filled = torch.empty(ROTATIONS, 2, H), torch.arange(FILLED)
    return tuple(kernel.weights(model)), tokens, rotations, rows, filled, mask, keys, values


def sizes_that_change(arguments: tuple[Any, ...], kind: Kind) -> dict[str, Any]:
    """Which axes of them have another length in another call."""
    weights, *_, mask, keys, _ = arguments
    length = {0: Dim.DYNAMIC}
    batch: dict[int, Any] = length if kind.several else {}
    caches = [[batch | {room: Dim.DYNAMIC}] * len(keys) for room in (2, 3)]
    masks = None if mask is None else batch | {1: Dim.DYNAMIC}
    fixed = torch.utils._pytree.tree_map(lambda _: None, weights)
    return {"weights": fixed, "surroundings": (batch, length, batch, length, masks, *caches)}


def main(told: str, path: str) -> None:
    """Writes the file."""
    kind = Kind(**json.loads(told))
    torch.set_num_threads(kind.threads)
    config = LlamaConfig(**json.loads(kind.sizes))
    arguments = example(config, kind)
    warnings.simplefilter("ignore")  # torch's own
    exported = torch.export.export(Step(config), arguments, dynamic_shapes=sizes_that_change(arguments, kind))
    options = {"aot_inductor.output_path": path, "memory_planning": True}  # one stretch of memory for all of a step
    torch._inductor.aot_compile(exported.module(), arguments, options=options)


if __name__ == "__main__":
    main(*sys.argv[1:])
