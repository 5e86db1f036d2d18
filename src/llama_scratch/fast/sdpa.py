"""Switch attention between the formula and PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from llama_scratch.model.attention import Attention


def use_sdpa(model: nn.Module) -> None:
    """Compute every attention in `model` by the fused kernel from now on."""
    for attention in _attentions(model):
        attention.sdpa = True


@contextmanager
def using_sdpa(model: nn.Module, sdpa: bool) -> Iterator[None]:
    """Compute every attention in `model` by the kernel, or by the formula; restore each switch at the end."""
    switches = [(attention, attention.sdpa) for attention in _attentions(model)]
    try:
        for attention, _ in switches:
            attention.sdpa = sdpa
        yield
    finally:
        for attention, before in switches:
            attention.sdpa = before


def _attentions(model: nn.Module) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]
