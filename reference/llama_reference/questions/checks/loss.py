"""The loss on logits from flat to steep, with some labels ignored."""

import torch
from torch import Tensor

from llama_reference.implementation import Loss
from llama_reference.standard.cases import LENGTH, Case

VARIANTS = ("hard",)

SCALES = (1e-3, 1.0, 30.0)


def ask(implementation: Loss, case: Case) -> dict[str, Tensor]:
    labels = case.tokens.masked_fill(
        torch.rand(case.tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.2, -100
    )
    shape = (case.rows, LENGTH, case.config["vocab_size"])
    return {
        f"logits at scale {scale:g}": implementation.loss(case.normal(*shape, scale=scale), labels)[None]
        for scale in SCALES
    }
