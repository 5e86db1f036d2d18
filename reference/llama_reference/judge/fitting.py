"""The number of a mistake that has one, from the answers: tried on a coarse grid, then refined.

A family's answers are computed in float64, so that nothing is rounded but the answers it is held against. From the best
number of the grid Gauss and Newton's method goes on, on answers in units in the last place; of the numbers that are as
near as the one found, the shortest is told: 1e-08, not 1.0004e-08.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from llama_reference.judge.agreement import Evidence, answered, comparable, farness, mistaken, within
from llama_reference.judge.comparison import reference_answers
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.composition import both
from llama_reference.mistakes.family import Family
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget
from llama_reference.standard.cases import Case

STEPS = 12  # of Newton's method, at most
PATIENCE, ENOUGH = 2, 0.5  # steps after which it must be nearer than the grid's number by so much, in log₂
WORTH = 2.0  # in log₂: by how much less far a number must be than right is, to be worth refining further
AS_NEAR = 0.02  # in log₂ of the mean distance: two numbers that are equally near
DIGITS = range(1, 8)
NEAR = "first positions"  # answers about these come first: angles far out wind round and round


def fitted(evidence: Evidence, families: Iterable[Family], over: Mistake | None = None) -> Iterator[Mistake]:
    """Of every family the member that is nearest to the answers, made on top of another mistake if one is given."""
    case = telling(evidence)
    if case is None:
        return
    for family in _likely_first(evidence, families, case):
        make = _maker(family, over)
        if make is not None and (number := _fit(evidence, family, make, case)) is not None:
            yield make(number)


def _likely_first(evidence: Evidence, families: Iterable[Family], wrong: Case) -> list[Family]:
    """Those first that change what is wrong and leave what is right: where one rope_type is wrong, those about it."""
    answered = (case for case in evidence.trials() if isinstance(evidence.answers(case), dict))
    right = next((case for case in answered if not evidence.is_wrong(case)), None)

    def changes(family: Family, case: Case) -> bool:
        others = mistaken(evidence.component, family.at(family.numbers.grid[0]), case, kept=False)
        theirs, exact = reference_answers(evidence.component, case)
        if not isinstance(others, dict) or not comparable(others, theirs):
            return True
        return not within(others, theirs, exact, evidence.costs(case), case.dtype)

    def unlikely(family: Family) -> bool:
        return right is not None and (changes(family, right) or not changes(family, wrong))

    return sorted(families, key=unlikely)


def telling(evidence: Evidence) -> Case | None:
    """The first question that is answered wrongly, by numbers; one in float32 if there is one."""
    wrong = [case for case in evidence.trials() if evidence.is_wrong(case) and isinstance(evidence.answers(case), dict)]
    return next((case for case in wrong if case.dtype == torch.float32), wrong[0] if wrong else None)


def _maker(family: Family, over: Mistake | None) -> Callable[[float], Mistake] | None:
    if over is None:
        return family.at
    if not any(both(over, family.at(family.numbers.grid[0]))):
        return None
    return lambda number: next(both(over, family.at(number)))


def _fit(evidence: Evidence, family: Family, make: Callable[[float], Mistake], case: Case) -> float | None:
    answers = evidence.answers(case)
    assert isinstance(answers, dict)
    _, right = reference_answers(evidence.component, case)
    near = _near(evidence, answers, case)
    misfit = _Misfit(evidence.component, make, case)
    tried = {number: misfit.rough(near, number) for number in family.numbers.grid}
    number = min(tried, key=lambda n: tried[n])
    if not math.isfinite(tried[number]) or max(tried.values()) == tried[number]:
        return None
    if not family.numbers.between:
        return number
    for told in (near, answers) if near is not answers else (answers,):
        number = _refined(misfit, told, number, family.numbers.between == "log")
        if misfit(told, number) > distance(told, right, case) - WORTH:
            return None
    return _shortest(misfit, answers, number)


def _near(evidence: Evidence, answers: Answers, case: Case) -> Answers:
    """Answers about the first positions, where these are wrong; else all."""
    theirs, exact = reference_answers(evidence.component, case)
    near = {label: answer for label, answer in answers.items() if NEAR in label}
    right = not near or within(near, theirs, exact, evidence.costs(case), case.dtype)
    return answers if right else near


def distance(answers: Answers, others: Answers, case: Case) -> float:
    """log₂ of the mean distance in ulps, the mean over all answers."""
    if not comparable(answers, others, of_one_dtype=False):
        return math.inf
    return sum(farness(answer, others[label], case.dtype) for label, answer in answers.items()) / len(answers)


class _Misfit:
    """How far a family's member is from given answers."""

    def __init__(self, component: str, make: Callable[[float], Mistake], case: Case) -> None:
        self._component = component
        self._make = make
        self._case = case
        self._exact = replace(case, exact=True)
        self.exactly = lru_cache(maxsize=8)(self._exactly)

    def _exactly(self, number: float) -> Answers | None:
        made = type(self._make(number).implementation)(torch.float64)
        answers = answered(self._component, made, self._exact)
        return answers if isinstance(answers, dict) else None

    def __call__(self, answers: Answers, number: float) -> float:
        exact = self.exactly(number)
        return math.inf if exact is None else distance(answers, exact, self._case)

    def rough(self, answers: Answers, number: float) -> float:
        """The same of the member's rounded answers, which come at half the price."""
        others = answered(self._component, self._make(number).implementation, self._case)
        return distance(answers, others, self._case) if isinstance(others, dict) else math.inf

    def residual(self, answers: Answers, number: float) -> Tensor | None:
        """Answers minus the member's, in ulps, of all that is finite in both."""
        exact = self.exactly(number)
        if exact is None or not comparable(answers, exact, of_one_dtype=False):
            return None
        apart = [
            (answer.double() - exact[label]).sign() * budget.ulps(answer, exact[label], self._case.dtype)
            for label, answer in answers.items()
        ]
        return torch.cat([part.flatten() for part in apart]).nan_to_num(0.0, 0.0, 0.0)


def _refined(misfit: _Misfit, answers: Answers, number: float, logarithmic: bool) -> float:
    """Gauss and Newton's method from a number on; the best of what it meets."""
    best, least = number, misfit(answers, number)
    enough = least - ENOUGH
    for done in range(STEPS):
        if done == PATIENCE and least > enough:
            break
        nudge = 1e-5 if logarithmic else 1e-5 * max(abs(number), 0.1)
        nudged = number * math.exp(nudge) if logarithmic else number + nudge
        here = misfit.residual(answers, number)
        there = misfit.residual(answers, nudged)
        if here is None or there is None:
            break
        slope = (there - here) / nudge
        if not (steep := slope.dot(slope).item()):
            break
        step = max(-1.0, min(1.0, -slope.dot(here).item() / steep))
        number = number * math.exp(step) if logarithmic else number + step
        if (found := misfit(answers, number)) < least:
            best, least = number, found
        if abs(step) < 1e-9:
            break
    return best


def _shortest(misfit: _Misfit, answers: Answers, number: float) -> float:
    """The number with the fewest digits that is as near as any: to answers that are rounded, so its own are too."""
    far = {}
    for short in dict.fromkeys([*(float(f"{number:.{digits}g}") for digits in DIGITS), number]):
        far[short] = misfit.rough(answers, short)
    return next(short for short in far if far[short] <= min(far.values()) + AS_NEAR)
