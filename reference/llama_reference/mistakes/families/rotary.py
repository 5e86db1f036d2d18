"""Families of mistakes in the rotary embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llama_reference.mistakes.family import FACTOR, Family, Numbers, ratios, whole
from llama_reference.mistakes.mistake import Steps
from llama_reference.mistakes.rotary import edges_as_configured, on_angles, on_positions
from llama_reference.standard.stepwise import StepwiseLlama

THETA = ratios(10.0, 1e8, 48)
POWERS = Numbers(tuple(2.0**i for i in range(4, 13)))


def _rope(key: str, kind: str) -> Callable[[float], Steps]:
    """A key of rope_parameters with another number, for one rope_type."""

    def steps(number: float) -> Steps:
        def frequencies(self: Any, config: Any, length: int) -> Any:
            rope = config["rope_parameters"]
            if rope["rope_type"] == kind:
                config = config | {"rope_parameters": rope | {key: number}}
            return StepwiseLlama.frequencies(self, config, length)

        return {"frequencies": frequencies}

    return steps


def _sharpened(kind: str) -> Callable[[float], Steps]:
    """Another factor on cosine and sine, for one rope_type."""

    def steps(number: float) -> Steps:
        def frequencies(self: Any, config: Any, length: int) -> Any:
            inverse, factor = StepwiseLlama.frequencies(self, config, length)
            return inverse, number if config["rope_parameters"]["rope_type"] == kind else factor

        return {"frequencies": frequencies}

    return steps


def _shifted(shift_q: float, shift_k: float) -> Steps:
    def rotary(self: Any, handle: Any, q: Any, k: Any, positions: Any) -> Any:
        cos_q, sin_q = self.angles(handle.config, positions + int(shift_q), q.dtype)
        cos_k, sin_k = self.angles(handle.config, positions + int(shift_k), q.dtype)
        return self.rotate(q, cos_q, sin_q), self.rotate(k, cos_k, sin_k)

    return {"rotary": rotary}


def _placed(change: Callable[..., Any]) -> Steps:
    return {"angles": on_positions(lambda _c, positions, _d: change(positions))}


def _placed_behind(change: Callable[..., Any]) -> Steps:
    """The same where dynamic and longrope still see the true length."""
    return {"angles": on_angles(lambda _c, positions, _d: change(positions))}


def _partly(number: float) -> Steps:
    """Only the first channels are turned, by frequencies of their own number."""
    n = int(number)

    def rotate(self: Any, x: Any, cos: Any, sin: Any) -> Any:
        if cos.shape[-1] >= x.shape[-1]:
            return StepwiseLlama.rotate(self, x, cos, sin)
        return torch.cat((StepwiseLlama.rotate(self, x[..., :n], cos, sin), x[..., n:]), dim=-1)

    return {"rotary_channels": lambda _s, c: min(n, c["head_dim"]), "rotate": rotate}


FAMILIES = (
    Family("rotary", "theta_fixed", "the base is {n} whatever the configuration says", THETA,
           lambda n: {"theta": lambda _s, _c: n}, "llama2.c#356, litgpt#2217"),
    Family("rotary", "theta_fixed", "the base is {n} whatever the configuration says, but for yarn's edges", THETA,
           lambda n: {"theta": lambda _s, _c: n, "yarn_edges": edges_as_configured}, "llama2.c#356, litgpt#2217"),
    Family("rotary", "theta_times", "the base is {n} times what the configuration says", ratios(1e-3, 1e3, 24),
           lambda n: {"theta": lambda s, c: n * StepwiseLlama.theta(s, c)}),
    Family("rotary", "exponent_over_another_number", "the exponent's denominator is {n} instead of head_dim", ratios(4, 200, 48),
           lambda n: {"periods": lambda s, base, H: base ** (torch.arange(0, H, 2, dtype=s.wide) / n)}),
    *(Family("rotary", f"{kind}_{short}_fixed", f"{kind}'s {key} is {{n}} whatever the configuration says", FACTOR if numbers is None else numbers,
             _rope(key, kind), seen)
      for kind, key, short, numbers, seen in (
          ("llama3", "factor", "factor", None, "TransformerLens#910"),
          ("llama3", "low_freq_factor", "low", ratios(0.25, 3.9, 16), "own"),
          ("llama3", "high_freq_factor", "high", ratios(1.02, 64, 24), "own"),
          ("llama3", "original_max_position_embeddings", "length", ratios(8, 131072, 56), "own"),
          ("linear", "factor", "factor", None, "vllm#1436"),
          ("dynamic", "factor", "factor", None, "own"),
          ("yarn", "factor", "factor", None, "own"),
          ("yarn", "original_max_position_embeddings", "length", ratios(40, 131072, 56), "own"),
      )),
    *(Family("rotary", f"{kind}_sharpened_by", f"{kind}'s cosine and sine are multiplied by {{n}}", ratios(0.25, 4, 16),
             _sharpened(kind), "sglang#33558") for kind in ("yarn", "longrope", "default", "llama3", "linear", "dynamic")),
    Family("rotary", "positions_from", "positions count from {n} instead of 0", whole(-64, 64), lambda n: _shifted(n, n)),
    Family("rotary", "keys_off_by", "the key stands {n} positions from the query of the same token", whole(-64, 64),
           lambda n: _shifted(0, n), "mobius#365, executorch#2010"),
    Family("rotary", "queries_off_by", "the query stands {n} positions from the key of the same token", whole(-64, 64),
           lambda n: _shifted(n, 0), "mobius#365, executorch#2010"),
    Family("rotary", "channels_turned", "only the first {n} channels of a head are turned, as many as rotary has frequencies for",
           Numbers(tuple(map(float, range(2, 20, 2)))), _partly),
    *(Family("rotary", name, why, numbers, lambda n, change=change, placed=placed: placed(change(n)))
      for placed in (_placed, _placed_behind)
      for name, why, numbers, change in (
          ("positions_times", "positions are multiplied by {n}", ratios(1 / 64, 64, 64), lambda n: lambda p: p * n),
          ("table_ends_at", "positions past {n} all get the last angle", POWERS, lambda n: lambda p: p.clamp(max=int(n) - 1)),
          ("table_wraps_at", "positions wrap around at {n}", POWERS, lambda n: lambda p: p % int(n)),
      )),
)  # fmt: skip
