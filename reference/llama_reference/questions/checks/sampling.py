"""The distribution of the next token: every knob alone and together, then rows that meet boundaries and ties."""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Sampling
from llama_reference.standard.cases import Case

VARIANTS = ("hard",)

SCALES = (1e-3, 1.0, 30.0)  # nearly uniform, usual, nearly certain

OFF: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None}

# V is 101
KNOBS: dict[str, dict[str, Any]] = {
    "all off": {},
    **{f"temperature {t:g}": {"temperature": t} for t in (0.0, 1e-4, 0.7, 1.7)},
    **{f"top_k {k}": {"top_k": k} for k in (1, 2, 50, 101, 1000)},
    **{f"top_p {p:g}": {"top_p": p} for p in (1e-9, 1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)},
    **{f"min_p {m:g}": {"min_p": m} for m in (0.0, 0.05, 0.5, 1.0)},
    **{f"repetition_penalty {r:g}": {"repetition_penalty": r} for r in (0.8, 1.0, 1.3)},
    "greedy, penalised": {"temperature": 0.0, "repetition_penalty": 3.0},
    "greedy, whatever the filters": {"temperature": 0.0, "top_k": 3, "top_p": 0.5, "min_p": 0.5},
    "temperature, then top_k": {"temperature": 1.7, "top_k": 7},
    "temperature, then top_p": {"temperature": 1.7, "top_p": 0.6},
    "temperature, then min_p": {"temperature": 1.7, "min_p": 0.2},
    "top_k, then top_p": {"top_k": 20, "top_p": 0.7},
    "top_p, then min_p": {"top_p": 0.8, "min_p": 0.3},
    "top_k, then min_p": {"top_k": 5, "min_p": 0.3},
    "penalty, then temperature": {"repetition_penalty": 1.3, "temperature": 0.6},
    "penalty, then top_p": {"repetition_penalty": 1.5, "top_p": 0.6},
    "all": {"temperature": 1.4, "top_k": 40, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2},
}

HALVES = torch.tensor([[math.log(p) for p in row] for row in permutations((0.5, 0.25, 0.125, 0.125))])
TIES = torch.tensor([[1.0, 3, 3, 2, 3, 0, 3, -1], [0.0] * 8, [-1.0, 2, 2, 2, 2, 2, 2, -1], [5.0, 5, 1, 1, 1, 1, 5, 5]])
SIGNS = torch.tensor([[-2.0, -1, 0, 1, 2, 3, -0.5, 0.5], [-4.0, -3, -2.5, -1, -5, -6, -7, -2]])
SAID = torch.tensor([[5, 5, 5, 0, 2, 5], [3, 6, 3, 3, 7, 7]])  # the likeliest of SIGNS, and more than once

EDGES: dict[str, tuple[Tensor, list[dict[str, Any]]]] = {
    "halves": (
        HALVES,
        [{"top_p": p} for p in (1e-9, 1e-6, 0.25, 0.5, 0.625, 0.75, 0.875, 1.0)]
        + [{"min_p": m} for m in (0.2, 0.25, 0.3, 0.5, 1.0)]
        + [{"top_k": k} for k in (1, 2, 3, 4, 5)]
        + [{"top_k": 2, "top_p": 0.6}, {"top_p": 0.75, "min_p": 0.5}, {"top_k": 3, "min_p": 0.25}],
    ),
    "ties": (
        TIES,
        [{"top_k": k} for k in (1, 2, 3, 4, 5, 8)]
        + [{"top_p": p} for p in (0.125, 0.2, 0.25, 0.3, 0.375, 0.5, 0.6)]
        + [{"min_p": 1.0}, {"temperature": 0.0}, {"top_k": 2, "top_p": 0.4}, {"top_p": 0.4, "min_p": 1.0}],
    ),
    "signs": (
        SIGNS,
        [{"repetition_penalty": r} for r in (0.5, 1.3, 2.0, 10.0)]
        + [{"repetition_penalty": 2.0, "temperature": t} for t in (0.0, 0.5, 2.0)],
    ),
}


def ask(implementation: Sampling, case: Case) -> dict[str, Tensor]:
    V = case.config["vocab_size"]
    answers = {}
    for scale in SCALES:
        logits = case.normal(len(case.tokens), V, scale=scale)
        for label, knobs in KNOBS.items():
            answers[f"{label}, logits at scale {scale:g}"] = implementation.sampling(logits, case.tokens, **OFF | knobs)
    banned = case.normal(len(case.tokens), V).masked_fill(torch.arange(V) % 3 == 0, -math.inf)
    answers["all, a third of the tokens banned"] = implementation.sampling(banned, case.tokens, **OFF | KNOBS["all"])
    for label, rows, tokens, knobs in edges():
        answers[label] = implementation.sampling(rows, tokens, **OFF | knobs)
    return answers


def edges() -> Iterator[tuple[str, Tensor, Tensor, dict[str, Any]]]:
    """(label, logits, tokens, knobs) of every question of EDGES."""
    for name, (rows, settings) in EDGES.items():
        tokens = SAID if name == "signs" else torch.zeros(len(rows), 1, dtype=torch.long)
        for knobs in settings:
            listed = ", ".join(f"{knob} {value:g}" for knob, value in knobs.items())
            yield f"{name}, {listed}", rows, tokens, knobs


WITH_TIES = {label: rows for label, rows, *_ in edges() if rows is HALVES or rows is TIES}


def interchangeable(label: str, probabilities: Tensor) -> Tensor:
    """Rows with ties, ordered by logit and then by probability: which of equally likely tokens stays is no law."""
    if label not in WITH_TIES:
        return probabilities
    rows = WITH_TIES[label]
    ascending, order = probabilities.sort(dim=-1)
    return ascending.gather(-1, rows.gather(-1, order).argsort(dim=-1, stable=True))
