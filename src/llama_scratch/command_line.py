"""What the command lines have in common."""

from __future__ import annotations

import torch


def is_usable(device: str) -> bool:
    """Whether torch can put a tensor there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # unknown; or known, but not in this build of torch
        return False
    return True


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return "--" + name.replace("_", "-")
