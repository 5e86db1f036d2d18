"""Families of mistakes in the feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from llama_reference.mistakes.family import TIMES, Family, ratios
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import StepwiseLlama


def _acting(function: Callable[..., Any]) -> Steps:
    return {"activation": lambda _s, _c, z: function(z)}


def _clamped(n: float) -> Steps:
    return {"gate": lambda s, c, gate, up: StepwiseLlama.gate(s, c, gate.clamp(max=n), up.clamp(-n, n))}


FAMILIES = (
    Family("swiglu", "sigmoid_of", "the activation is z σ({n} z)", ratios(0.1, 16, 22),
           lambda n: _acting(lambda z: z * torch.sigmoid(n * z))),
    Family("swiglu", "leaky_relu", "the activation is relu with a slope of {n} below 0", ratios(1e-3, 0.9, 20),
           lambda n: _acting(lambda z: F.leaky_relu(z, n))),
    Family("swiglu", "gate_times", "the product of gate and up is {n} times what it should be", TIMES,
           lambda n: {"gate": lambda s, c, gate, up: StepwiseLlama.gate(s, c, gate, up) * n}),
    Family("swiglu", "clamped_at", "gate and up are clamped at {n}, as in gpt-oss", ratios(0.5, 64, 21), _clamped),
)  # fmt: skip
