"""Families of mistakes in attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from llama_reference.mistakes.attention import columns
from llama_reference.mistakes.family import TIMES, Family, between, ratios, whole
from llama_reference.mistakes.mistake import Steps, wide
from llama_reference.standard.stepwise import StepwiseLlama


def _scores(change: Callable[..., Any]) -> Steps:
    """Scores changed before the softmax; change(scores)."""
    return {"softmax": lambda s, scores: StepwiseLlama.softmax(s, change(scores))}


def _sink(number: float) -> Steps:
    def softmax(self: Any, scores: Any) -> Any:
        sink = torch.full_like(scores[..., :1], math.log(number))
        padded = torch.cat((scores, sink), dim=-1)
        return padded.softmax(dim=-1, dtype=self.wide).to(scores.dtype)[..., :-1]

    return {"softmax": softmax}


def _masked_by(number: float) -> Steps:
    def attend(self: Any, q: Any, k: Any, v: Any, seen: Any, scale: float) -> Any:
        R = q.shape[1] // k.shape[1]
        scores = q @ self.share(k, R).transpose(-2, -1) * scale - number * (~seen).to(q.dtype)
        return self.softmax(scores) @ self.share(v, R)

    return {"attend": attend}


def _window(number: float) -> Steps:
    return {"causal": columns(lambda q, k: (k <= q) & (k > q - int(number)))}


def _normalised(eps: float) -> Steps:
    def unit(x: Any) -> Any:
        return x * torch.rsqrt(wide(x).pow(2).mean(-1, keepdim=True) + eps).to(x.dtype)

    def project(self: Any, handle: Any, at: Any, x: Any) -> Any:
        q, k, v = StepwiseLlama.project(self, handle, at, x)
        return unit(q), unit(k), v

    return {"project": project}


FAMILIES = (
    Family("attention", "scale_times", "scores are {n} times what they should be", TIMES,
           lambda n: {"scale": lambda s, c: n * StepwiseLlama.scale(s, c)}),
    Family("attention", "scale_fixed", "scores are multiplied by {n} whatever head_dim is", ratios(1 / 64, 8, 9),
           lambda n: {"scale": lambda _s, _c: n}),
    Family("attention", "scale_exponent", "scores are multiplied by head_dim to the power {n} instead of -0.5", between(-2, 1, 9),
           lambda n: {"scale": lambda _s, c: float(c["head_dim"]) ** n}),
    Family("attention", "queries_normalised_with", "queries and keys are normalised first, as in Qwen 3, with an eps of {n}",
           ratios(1e-12, 1e-2, 10), _normalised, "nanochat"),
    Family("attention", "window", "a query sees the last {n} tokens only", whole(1, 47), _window),
    Family("attention", "sees_ahead", "a query also sees the next {n} tokens", whole(1, 47),
           lambda n: {"causal": columns(lambda q, k: k <= q + int(n))}),
    Family("attention", "masked_by", "masked scores are lowered by {n} only", ratios(0.5, 512, 10), _masked_by),
    Family("attention", "scores_capped_at", "scores are softly capped at {n}, as in Gemma 2", ratios(1, 512, 9), lambda n:
           _scores(lambda y: torch.where(y < -1e4, y, n * (y / n).tanh()))),
    Family("attention", "sink_of", "{n} is added to the denominator of the softmax", ratios(1e-3, 1e3, 12), _sink),
)  # fmt: skip
