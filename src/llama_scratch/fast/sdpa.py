"""By what a model computes attention: the formula, or PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from llama_scratch.model.attention import Attention


@contextmanager
def using_sdpa(model: nn.Module, sdpa: bool) -> Iterator[None]:
    """Within, every attention in `model` is computed by the kernel, or by the formula; afterwards each as before."""
    before = [(module, module.sdpa) for module in model.modules() if isinstance(module, Attention)]
    try:
        for module, _ in before:
            module.sdpa = sdpa
        yield
    finally:
        for module, was in before:
            module.sdpa = was
