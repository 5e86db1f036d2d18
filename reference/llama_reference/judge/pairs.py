"""Two mistakes of one component at once, where no single one explains its answers.

Which pairs are worth asking is worked out from what each mistake answers alone: on which answers it is nearer to the
implementation than right is, and by how much. A mistake that changes an answer which is right is made by nobody here.
The pairs whose better halves come nearest are tried first, as long as there is time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

from llama_reference.judge.agreement import (
    PLAUSIBLE,
    Evidence,
    comparable,
    farness,
    furthest,
    is_plausible,
    mistaken,
    within,
)
from llama_reference.judge.comparison import reference_answers
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.composition import both
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget
from llama_reference.standard.cases import Case

CASES = 3  # at most, on which single mistakes are compared
ENOUGH = 0.1  # in log₂: to be nearer than right is
MORE = 20  # pairs that are tried behind the first that explains everything: another may be nearer

Gains = dict[tuple[Case, str], float]  # by question and answer: how much nearer than right, in log₂


def pairs(evidence: Evidence, known: Iterable[Mistake], in_time: Callable[[], bool]) -> Iterator[Mistake]:
    """Pairs that explain the answers."""
    case = next((case for case, _ in _numeric(evidence) if evidence.is_wrong(case)), None)
    if case is None:
        return
    answers = dict(_numeric(evidence))[case]
    likely = sorted(known, key=lambda mistake: -_total(_gain(evidence, mistake, 1)))  # it was asked this case already
    gains = {mistake: gain for mistake in likely if in_time() and (gain := _gain(evidence, mistake)) is not None}
    left: int | None = None
    for one, other in _promising(gains):
        if not in_time() or left == 0:
            return
        left = None if left is None else left - 1
        for pair in both(one, other):
            others = mistaken(evidence.component, pair, case, kept=False)
            if isinstance(others, dict) and comparable(answers, others):
                cost = evidence.costs(case)
                if is_plausible(answers, others, cost, case.dtype) and evidence.surviving([pair], kept=False):
                    left = MORE if left is None else left
                    yield pair


def helpful(evidence: Evidence, known: Iterable[Mistake], most: int) -> list[Mistake]:
    """The mistakes that bring the answers nearest, each alone."""
    gains = {mistake: gain for mistake in known if (gain := _gain(evidence, mistake)) is not None}
    best = sorted(gains, key=lambda mistake: -sum(gains[mistake].values()))
    return [mistake for mistake in best if any(gains[mistake].values())][:most]


def _numeric(evidence: Evidence) -> list[tuple[Case, Answers]]:
    """The questions that are answered by numbers, those that are answered wrongly first."""
    asked = [(case, answers) for case in evidence.trials() if isinstance(answers := evidence.answers(case), dict)]
    return sorted(asked, key=lambda each: not evidence.is_wrong(each[0]))[:CASES]


def _promising(gains: dict[Mistake, Gains]) -> list[tuple[Mistake, Mistake]]:
    """Pairs of different mistakes, those first that come nearest where the better of the two counts."""
    of_pair = {
        (one, other): sum(max(gains[one][at], gains[other][at]) for at in gains[one])
        for one, other in combinations(gains, 2)
        if one.name != other.name
    }
    return sorted(of_pair, key=lambda pair: -of_pair[pair])


def _total(gains: Gains | None) -> float:
    return -1.0 if gains is None else sum(gains.values())


def _gain(evidence: Evidence, mistake: Mistake, most: int = CASES) -> Gains | None:
    """How much nearer the mistake is than right, by answer; None where it cannot be one of the mistakes made."""
    gains: Gains = {}
    moves = False
    for case, answers in _numeric(evidence)[:most]:
        theirs, exact = reference_answers(evidence.component, case)
        others = mistaken(evidence.component, mistake, case)
        if not isinstance(others, dict) or not comparable(answers, others):
            return None
        cost = evidence.costs(case)
        for label, answer in answers.items():
            tolerable = PLAUSIBLE * (budget.FACTOR * cost[label] + budget.ULPS)
            changed = furthest(others[label], theirs[label], case.dtype) > tolerable
            right = within({label: answer}, theirs, exact, cost, case.dtype)
            if changed and right:
                return None
            moves |= changed
            nearer = 0.0
            if not right:
                nearer = farness(answer, theirs[label], case.dtype) - farness(answer, others[label], case.dtype)
            gains[case, label] = nearer if nearer > ENOUGH else 0.0
    return gains if moves else None
