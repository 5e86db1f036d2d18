"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) that decays matrices and leaves norms and biases alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, highest: float, warmup: int, steps: int) -> float:
    """Of step 0, 1, …: rises evenly to the highest at the end of the warm-up, then falls along a half cosine to a tenth
    of it at the last step (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step + 1 - warmup) / max(steps - warmup, 1)
    return highest * (0.1 + 0.9 * (1 + math.cos(math.pi * min(done, 1))) / 2)
