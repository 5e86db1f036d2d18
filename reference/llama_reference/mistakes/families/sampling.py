"""Families of mistakes in sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llama_reference.mistakes.family import Family, between, ratios, whole
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import StepwiseLlama


def _knob(name: str, value: Callable[..., Any]) -> Steps:
    """One knob of sampling turned otherwise than asked."""

    def sampling(self: Any, logits: Any, tokens: Any, *knobs: Any, **named: Any) -> Any:
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        asked = dict(zip(names, knobs, strict=False)) | named
        return StepwiseLlama.sampling(self, logits, tokens, **asked | {name: value(asked[name])})

    return {"sampling": sampling}


FAMILIES = (
    Family("sampling", "temperature_times", "the temperature is multiplied by {n}", ratios(1 / 8, 8, 18),
           lambda n: {"temper": lambda _s, y, t: y / (t * n)}),
    Family("sampling", "temperature_fixed", "the temperature is {n} whatever is asked for", ratios(0.1, 10, 20),
           lambda n: {"temper": lambda _s, y, _t: y / n}),
    Family("sampling", "top_k_off_by", "{n} tokens more than top-k are kept", whole(-5, 5),
           lambda n: {"keep_top_k": lambda s, y, k: StepwiseLlama.keep_top_k(s, y, max(k + int(n), 1))}),
    Family("sampling", "top_k_default", "top-k is {n} where it is off", whole(1, 100),
           lambda n: _knob("top_k", lambda k: int(n) if k is None else k)),
    Family("sampling", "penalty_fixed", "the repetition penalty is {n} whatever is asked for", ratios(0.25, 8, 20),
           lambda n: {"penalise": lambda s, y, t, _r: StepwiseLlama.penalise(s, y, t, n)}),
    Family("sampling", "penalty_default", "the repetition penalty is {n} where it is off", ratios(0.5, 4, 18),
           lambda n: _knob("repetition_penalty", lambda r: n if r is None else r)),
    Family("sampling", "penalty_window", "only the last {n} tokens are penalised", whole(1, 47), lambda n: {
        "penalise": lambda s, y, t, r: StepwiseLlama.penalise(s, y, t[:, -int(n):], r)}),
    Family("sampling", "filtered_to", "filtered logits are set to {n} instead of -inf", between(-100, 0, 25), lambda n: {
        "distribution": lambda _s, y: y.masked_fill(y == -math.inf, n).softmax(-1)}),
    Family("sampling", "top_p_times", "top-p is multiplied by {n}", ratios(0.5, 1.5, 10),
           lambda n: {"keep_top_p": lambda s, y, p: StepwiseLlama.keep_top_p(s, y, min(p * n, 1.0))}),
    Family("sampling", "min_p_times", "min-p is multiplied by {n}", ratios(0.25, 4, 10),
           lambda n: {"keep_min_p": lambda s, y, m: StepwiseLlama.keep_min_p(s, y, min(m * n, 1.0))}),
)  # fmt: skip
