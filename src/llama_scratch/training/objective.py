"""The training objective: the loss as a function of the tokens, compiled or not."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.fast.sdpa import using_sdpa
from llama_scratch.model.config import Tokens
from llama_scratch.model.loss import next_token_loss
from llama_scratch.torch_private import capture_scalars

# longest sequence for which the compiled formula of attention is faster on a CPU than PyTorch's fused kernel: it writes
# the scores to memory, but its products run at the peak of the machine (benchmarks/NOTES.md)
SHORT = 512
OPTIONS: dict[str, Any] = {"cpp.min_chunk_size": 4096}  # elements per thread: with fewer, synchronisation costs more


class Objective(nn.Module):
    """Loss of a part of a batch, given the tokens and the number of targets in the whole batch.

    Compiled, forward pass and loss are one graph: a graph that ended at the logits would write them and their gradients
    to memory. On a CPU sequences up to `short` tokens use the formula of attention.
    """

    def __init__(self, model: Llama, compiled: bool = False, short: int = SHORT) -> None:
        super().__init__()
        self.model = model
        self._short = short
        self._compiled = torch.compile(self._loss, options=OPTIONS) if compiled else None

    def forward(self, tokens: Tokens, targets: int) -> Float[Tensor, ""]:
        if self._compiled is None:
            return self._loss(tokens, targets)
        by_formula = tokens.device.type == "cpu" and tokens.shape[1] <= self._short
        # scalars captured: otherwise the graph ends where positions are measured
        with using_sdpa(self.model, not by_formula), capture_scalars():
            return self._compiled(tokens, targets)

    def _loss(self, tokens: Tokens, targets: int) -> Tensor:
        return next_token_loss(self.model(tokens), tokens, targets)
