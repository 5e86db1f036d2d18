"""Families of mistakes in RMSNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llama_reference.mistakes.family import TIMES, Family, between, ratios, whole
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import StepwiseLlama

EPS = ratios(1e-12, 1.0, 12)


def _normalised(by: Callable[..., Any], number: float) -> Steps:
    """normalise, from by(x, number): what x is divided by."""
    return {"normalise": lambda s, x, _eps: x.to(s.wide) / by(x.to(s.wide), number)}


def _mean_square(x: torch.Tensor) -> torch.Tensor:
    return x.pow(2).mean(-1, keepdim=True)


FAMILIES = (
    Family("rms_norm", "eps_fixed", "eps is {n} whatever the configuration says", EPS, lambda n: {"eps": lambda _s, _c: n},
           "llama.cpp#2374, candle#271"),
    Family("rms_norm", "eps_fixed_outside_the_root", "eps is {n}, and added to the root instead of under it", EPS,
           lambda n: _normalised(lambda x, eps: _mean_square(x).sqrt() + eps, n), "scratch-llm"),
    Family("rms_norm", "eps_fixed_on_the_norm", "eps is {n}, outside the root, on the norm instead of the root of the mean", EPS,
           lambda n: _normalised(lambda x, eps: (x.norm(dim=-1, keepdim=True) + eps) / x.shape[-1] ** 0.5, n), "scratch-llm"),
    Family("rms_norm", "eps_fixed_as_a_floor", "the mean square is kept above {n} instead of eps being added to it", EPS,
           lambda n: _normalised(lambda x, eps: _mean_square(x).clamp(min=eps).sqrt(), n)),
    Family("rms_norm", "eps_on_the_sum", "eps is {n}, and added to the sum of squares before the mean is taken", EPS,
           lambda n: _normalised(lambda x, eps: ((x.pow(2).sum(-1, keepdim=True) + eps) / x.shape[-1]).sqrt(), n)),
    Family("rms_norm", "eps_times", "eps is {n} times what the configuration says", ratios(1e-6, 1e6, 12),
           lambda n: {"eps": lambda s, c: n * StepwiseLlama.eps(s, c)}),
    Family("rms_norm", "gain_plus", "weight + {n} multiplies", between(-2, 2, 8), lambda n: {
        "norm": lambda s, x, gain, eps: (n + gain) * s.normalise(x, eps).to(x.dtype)}),
    Family("rms_norm", "norm_times", "the result is {n} times what it should be", TIMES, lambda n: {
        "norm": lambda s, x, gain, eps: StepwiseLlama.norm(s, x, gain, eps) * n}),
    Family("rms_norm", "mean_over_another_number", "the sum of squares is divided by D + {n}", whole(-16, 16), lambda n: {
        "normalise": lambda s, x, eps: x.to(s.wide) * torch.rsqrt(
            x.to(s.wide).pow(2).sum(-1, keepdim=True) / (x.shape[-1] + n) + eps)}),
)  # fmt: skip
