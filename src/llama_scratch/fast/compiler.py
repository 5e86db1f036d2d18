"""Compile the step for one StepKey: `python -m llama_scratch.fast.compiler KEY PATH`, which compiled.py starts.

The step is exported with uninitialised tensors, which take no memory; PATH becomes its machine code, a shared library,
next to its sources.
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
from llama_scratch.fast.compiled import StepKey
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.llama import Llama
from llama_scratch.torch_private import compile_ahead

TEXTS, FILLED, ROOM, ROTATIONS = 3, 7, 19, 23  # of the example; all different, so that no two axes are identified
# the form of kernel.LayerWeights: seven projections and two norms, none with an axis that changes
FIXED_LAYER = (*[(None, None)] * 7, None, None)


class ExportedStep(nn.Module):
    """`kernel.logits` as a module for torch.export; every tensor is an argument, the weights too, as plain tuples."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self._eps = config.rms_norm_eps
        self._act = config.hidden_act

    def forward(
        self,
        weights: tuple[Any, ...],
        tokens: Tensor,
        rotations: Tensor,
        rows: Tensor,
        filled: Tensor,
        mask: Tensor | None,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        embedding, layers, norm, head = weights
        named = kernel.Weights(embedding, [kernel.LayerWeights(*layer) for layer in layers], norm, head)
        return kernel.logits(named, self._eps, self._act, tokens, rotations, rows, filled, mask, keys, values)


def example(config: LlamaConfig, key: StepKey) -> tuple[Any, ...]:
    """Make the arguments of a call."""
    dtype = getattr(torch, key.dtype)
    with torch.device("meta"):
        model = Llama(config)
    weights = kernel.weights(model.to(dtype).to_empty(device="cpu").requires_grad_(False))
    B = TEXTS if key.several else 1
    G = config.num_key_value_heads
    H = config.head_dim
    layers = range(config.num_hidden_layers)
    return (
        (weights.embedding, [tuple(layer) for layer in weights.layers], weights.norm, weights.head),
        torch.zeros(B, 1, dtype=torch.long),
        torch.empty(ROTATIONS, 2, H),
        torch.zeros(B, dtype=torch.long),
        torch.arange(FILLED),
        torch.ones(B, FILLED, dtype=torch.bool) if key.padded else None,
        [torch.empty(B, G, ROOM, H, dtype=dtype) for _ in layers],
        [torch.empty(B, G, H, ROOM, dtype=dtype) for _ in layers],
    )


def dynamic_shapes(config: LlamaConfig, key: StepKey) -> dict[str, Any]:
    """Say which axes of the arguments may have another length in another call."""
    L = config.num_hidden_layers
    length = {0: Dim.DYNAMIC}
    batch: dict[int, Any] = length if key.several else {}
    return {
        "weights": (None, [FIXED_LAYER] * L, None, None),
        "tokens": batch,
        "rotations": length,
        "rows": batch,
        "filled": length,
        "mask": batch | {1: Dim.DYNAMIC} if key.padded else None,
        "keys": [batch | {2: Dim.DYNAMIC}] * L,
        "values": [batch | {3: Dim.DYNAMIC}] * L,
    }


def main(key_json: str, path: str) -> None:
    """Write the file."""
    key = StepKey(**json.loads(key_json))
    torch.set_num_threads(key.threads)
    config = LlamaConfig(**json.loads(key.sizes))
    arguments = example(config, key)
    warnings.simplefilter("ignore")  # torch's own
    exported = torch.export.export(ExportedStep(config), arguments, dynamic_shapes=dynamic_shapes(config, key))
    # memory_planning: one stretch of memory for the whole step
    compile_ahead(exported.module(), arguments, {"aot_inductor.output_path": path, "memory_planning": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
