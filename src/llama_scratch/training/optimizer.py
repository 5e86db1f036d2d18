"""AdamW or Muon, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "muon"]


def make_optimizers(
    model: nn.Module, optimizer: OptimizerName, weight_decay: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Make AdamW (Loshchilov and Hutter 2019), with weight decay for matrices only; or Muon (Jordan et al. 2024) for
    the matrices of the layers and AdamW for the rest.

    Muon's updates are orthogonal matrices, scaled so that AdamW's learning rate fits (Liu et al. 2025, eq. 4).
    """
    named = dict(model.named_parameters())
    moved = [name for name, p in named.items() if optimizer == "muon" and p.ndim == 2 and "layers." in name]
    rest = [p for name, p in named.items() if name not in moved]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    if optimizer == "adamw":
        return (adamw,)
    matrices = [named[name] for name in moved]
    return torch.optim.Muon(matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"), adamw


def learning_rate(step: int, highest: float, warmup: int, steps: int) -> float:
    """Learning rate of step 0, 1, …: rises linearly to the highest during warm-up, then decays along a half cosine to a
    tenth of it at the last step (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step + 1 - warmup) / max(steps - warmup, 1)
    return highest * (0.1 + 0.9 * (1 + math.cos(math.pi * min(done, 1))) / 2)
