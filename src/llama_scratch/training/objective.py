"""What is differentiated: the loss as a function of the tokens and of a model's parameters, compiled or not."""

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

# tokens up to which a CPU computes attention sooner by the compiled formula than by PyTorch's fused kernel: scores are
# written to memory, but its products run at the machine's peak (benchmarks/NOTES.md)
SHORT = 512
OPTIONS: dict[str, Any] = {"cpp.min_chunk_size": 4096}  # numbers a thread: below, waiting for each other costs more


class Objective(nn.Module):
    """Called with tokens and how many targets the whole batch has, of which these may be a part. Compiled, forward pass
    and loss are one graph: a program that ends at the logits writes them and all their gradients to memory.
    """

    def __init__(self, model: Llama, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self._compiled = torch.compile(self._loss, options=OPTIONS) if compiled else None

    def forward(self, tokens: Tokens, targets: int) -> Float[Tensor, ""]:
        if self._compiled is None:
            return self._loss(tokens, targets)
        by_formula = tokens.device.type == "cpu" and tokens.shape[1] <= SHORT
        # scalars captured: otherwise the graph ends where positions are measured
        with using_sdpa(self.model, not by_formula), capture_scalars():
            return self._compiled(tokens, targets)

    def _loss(self, tokens: Tokens, targets: int) -> Tensor:
        return next_token_loss(self.model(tokens), tokens, targets)
