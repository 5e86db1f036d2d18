"""Which known mistake a wrong implementation looks like: the one that gives the same wrong answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from reference import budget, mistakes
from reference.cases import Case
from reference.checks import gradients
from reference.mistakes import Mistake
from reference.power import NO_GRADIENTS, Answers, ask, cases, gradient_variants, reference, reference_gradients


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
    for variant in gradient_variants(component):
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
