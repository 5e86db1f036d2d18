"""What the questions can tell: which of them reject an implementation, and which known mistake it looks like."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from reference import budget, formula, mistakes, oracle
from reference.budget import Verdict
from reference.cases import DTYPES, Case
from reference.checks import gradients
from reference.mistakes import Mistake
from reference.plain import Plain

Answers = dict[str, Tensor]

# Components without a gradient, and why.
NO_GRADIENTS = {
    "generate": "tokens are whole numbers",
    "sampling": "choosing a token is not differentiated",
    "kv_cache": "a cache holds numbers; whether a graph hangs on them is nobody's contract",
}


def cases(component: str, seed: int = 0) -> Iterator[Case]:
    """Every case that a component is asked about, the most telling first."""
    variants = importlib.import_module(f"reference.checks.{component}").VARIANTS
    dtypes = (torch.float32,) if component == "generate" else DTYPES  # greedy ties are a matter of rounding
    return (Case(variant, dtype, seed) for variant in variants for dtype in dtypes)


def ask(component: str, implementation: Any, case: Case) -> Answers:
    """The implementation's answers."""
    with torch.no_grad():
        return importlib.import_module(f"reference.checks.{component}").ask(implementation, case)


@cache
def reference(component: str, case: Case) -> tuple[Answers, Answers]:
    """What transformers and the formula answer; computed once, however often it is needed."""
    return ask(component, oracle, case), ask(component, formula, case)


@cache
def reference_gradients(component: str, variant: str, dtype: torch.dtype, seed: int = 0) -> tuple[Answers, Answers]:
    """transformers' gradients, and the exact ones, by autograd in float64."""
    theirs = gradients.ask(component, oracle, Case(variant, dtype, seed))
    return theirs, gradients.ask(component, Plain(torch.float64), Case(variant, dtype, seed, exact=True))


def verdicts(component: str, case: Case, answers: Answers) -> list[Verdict]:
    """One verdict an answer. Raises ValueError where answers lack, have another shape, or the reference is void."""
    theirs, exact = reference(component, case)
    return _judged(answers, theirs, exact, case.dtype)


def gradient_verdicts(component: str, implementation: Any, variant: str, dtype: torch.dtype) -> list[Verdict]:
    """One verdict a gradient. Raises ValueError where one is missing."""
    theirs, exact = reference_gradients(component, variant, dtype)
    return _judged(gradients.ask(component, implementation, Case(variant, dtype)), theirs, exact, dtype)


def _judged(answers: Answers, theirs: Answers, exact: Answers, dtype: torch.dtype) -> list[Verdict]:
    if answers.keys() != theirs.keys():
        raise ValueError(f"answers to {sorted(answers.keys() ^ theirs.keys())} are missing or too many")
    return [budget.judge(label, answers[label], theirs[label], exact[label], dtype) for label in theirs]


def rejections(component: str, implementation: Any) -> set[str]:
    """Which sections reject the implementation: "formula" and "oracle" over all cases, "gradients" over two."""
    found: set[str] = set()
    for case in cases(component):
        try:
            judged = verdicts(component, case, ask(component, implementation, case))
        except (ValueError, RuntimeError, IndexError, TypeError):  # it breaks, or answers another question
            return {"formula", "oracle", "gradients"} - ({"gradients"} if component in NO_GRADIENTS else set())
        found |= {"oracle"} if not all(v.bitwise for v in judged) else set()
        found |= {"formula"} if not all(v.within for v in judged) else set()
        if {"oracle", "formula"} <= found:
            break
    if component not in NO_GRADIENTS and _gradients_reject(component, implementation):
        found.add("gradients")
    return found


def _gradients_reject(component: str, implementation: Any) -> bool:
    try:
        return not all(
            verdict.bitwise
            for variant in _gradient_variants(component)
            for verdict in gradient_verdicts(component, implementation, variant, torch.float32)
        )
    except (ValueError, RuntimeError, IndexError, TypeError):
        return True


@dataclass(frozen=True)
class Likeness:
    """A known mistake that reproduces wrong answers."""

    mistake: Mistake
    bitwise: bool

    def __str__(self) -> str:
        sure = "these are its bits" if self.bitwise else "within rounding"
        return f"looks like `{self.mistake.name}` ({sure}): {self.mistake.why} [seen: {self.mistake.seen}]"


@cache
def _mistaken(mistake: Mistake, case: Case) -> Answers | None:
    try:
        return ask(mistake.component, mistake.implementation, case)
    except (RuntimeError, IndexError, ValueError, TypeError):
        return None


def looks_like(component: str, implementation: Any, seed: int = 0) -> list[Likeness]:
    """The known mistakes of the component that reproduce all answers of a wrong implementation, the nearest first.

    Empty when no known mistake does, or when nothing is wrong. Only cases in float32 and one in bfloat16 are asked:
    where answers differ in rounding alone, bfloat16 shows which rounding.
    """
    suspects = dict.fromkeys(mistakes.of(component), True)  # -> equal in bits so far
    wrong = False
    for case in cases(component, seed):
        if case.dtype == torch.float16 or (case.dtype == torch.bfloat16 and case.variant != "hard"):
            continue
        try:
            answers = ask(component, implementation, case)
        except Exception:  # whatever a foreign implementation raises, no known mistake explains it
            return []
        theirs, exact = reference(component, case)
        wrong = wrong or not _alike(answers, theirs, theirs, exact, case.dtype)[0]
        for mistake in list(suspects):
            bitwise, near = _alike(answers, _mistaken(mistake, case), theirs, exact, case.dtype)
            if not near:
                del suspects[mistake]
            else:
                suspects[mistake] &= bitwise
    if not wrong:
        suspects = _same_gradients(component, implementation, seed)
    found = [Likeness(mistake, bitwise) for mistake, bitwise in suspects.items()]
    return sorted(found, key=lambda likeness: not likeness.bitwise)


def _same_gradients(component: str, implementation: Any, seed: int) -> dict[Mistake, bool]:
    """Mistakes with the same wrong gradients as an implementation whose answers are right -> whether in all bits."""
    if component in NO_GRADIENTS:
        return {}
    found = {}
    for variant in _gradient_variants(component):
        theirs, exact = reference_gradients(component, variant, torch.float32, seed)
        answers = gradients.ask(component, implementation, Case(variant, seed=seed))
        if _alike(answers, theirs, theirs, exact, torch.float32)[1]:
            continue
        for mistake in mistakes.of(component):
            others = gradients.ask(component, mistake.implementation, Case(variant, seed=seed))
            bitwise, near = _alike(answers, others, theirs, exact, torch.float32)
            if near:
                found[mistake] = bitwise
    return found


def _gradient_variants(component: str) -> tuple[str, ...]:
    return ("hard", "tied") if component == "llama" else ("hard",)


def _alike(
    answers: Answers, others: Answers | None, theirs: Answers, exact: Answers, dtype: torch.dtype
) -> tuple[bool, bool]:
    """Whether two sets of answers have the same bits, and whether they differ by rounding only."""
    if others is None or answers.keys() != others.keys():
        return False, False
    bitwise = near = True
    for label, answer in answers.items():
        other = others[label]
        if answer.shape != other.shape:
            return False, False
        same = answer.dtype == other.dtype and bool(((answer == other) | (answer.isnan() & other.isnan())).all())
        bitwise &= same
        if not same and near:
            allowed = budget.ulps(theirs[label], exact[label], dtype).max() * budget.FACTOR + budget.ULPS
            near = bool((budget.ulps(answer, other.double(), dtype) <= allowed).all())
    return bitwise, near
