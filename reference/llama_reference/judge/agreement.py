"""Whether the answers of an implementation are those of a mistake: the budget that says whether they are transformers'.

A mistake is executable, so it answers twice: in the dtype under test, as transformers does, and in float64, as the
formula does. An implementation agrees with it where it is as near to the mistake in float64 as rounding lets it be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from llama_reference.implementation import Implementation
from llama_reference.judge.comparison import ask, cases, chance_errors, reference_answers
from llama_reference.mistakes import Mistake
from llama_reference.questions.checks import CHECKS
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import FULL, Profile

MARGIN = 1.0  # in log₂: half as far from the mistake as from transformers
# Unless half of its answers are within this many times what the budget allows transformers, a suspect is not worth its
# answers in float64. (Of a mistake that makes rounding worse, such as attention without its norm, some are not.)
PLAUSIBLE = 64
FINEST = 2.0**-12  # ulps: equal bits are not infinitely near
Answer = TypeVar("Answer")
KEPT = 2048  # answers of mistakes that are kept, so that the next diagnosis need not ask for them


@dataclass
class Suspect:
    """What has been found out about one mistake. The distances are those of answers on which it differs from right."""

    bitwise: bool = True
    distances: list[float] = field(default_factory=list)  # log₂ of mean ulps, of every answer
    advantages: list[float] = field(default_factory=list)  # by how much transformers is further, where the two differ

    @property
    def nearness(self) -> float:
        return sum(self.distances) / max(len(self.distances), 1)

    @property
    def is_nearer(self) -> bool:
        return bool(self.advantages) and sum(self.advantages) / len(self.advantages) >= MARGIN


class Evidence:
    """The answers of one implementation to the questions of a component; each question is put once."""

    def __init__(self, component: str, implementation: Implementation, seed: int = 0, profile: Profile = FULL) -> None:
        self.component = component
        self.implementation = implementation
        self.seed = seed
        self.profile = profile
        self._answers: dict[Case, Answers | str | None] = {}
        self._costs: dict[Case, dict[str, float]] = {}

    def answers(self, case: Case) -> Answers | str | None:
        """As `answered` says."""
        if case not in self._answers:
            self._answers[case] = answered(self.component, self.implementation, case)
        return self._answers[case]

    def trials(self) -> Iterator[Case]:
        """The questions that it answers. What it refuses tells nothing, and must not cost the names that the rest
        determines.
        """
        return (case for case in trials(self.component, self.seed, self.profile) if self.answers(case) is not None)

    @property
    def is_broken(self) -> bool:
        """Whether it breaks at whatever it is asked, and does not refuse it."""
        answers = [self.answers(case) for case in self.trials()]
        return bool(answers) and all(isinstance(answer, str) for answer in answers)

    def is_wrong(self, case: Case) -> bool:
        """Whether the answers to the question are not what transformers computes."""
        answers = self.answers(case)
        if not isinstance(answers, dict):
            return answers is not None
        theirs, exact = reference_answers(self.component, case)
        return not within(answers, theirs, exact, self.costs(case), case.dtype)

    def costs(self, case: Case) -> dict[str, float]:
        """As `costs` says; more where transformers may have been lucky (standard.budget.second_opinion)."""
        if case not in self._costs:
            self._costs[case] = self._fair_costs(case)
        return self._costs[case]

    def _fair_costs(self, case: Case) -> dict[str, float]:
        cost, answers = costs(self.component, case), self.answers(case)
        theirs, exact = reference_answers(self.component, case)
        if CHECKS[self.component].judge or not isinstance(answers, dict) or not comparable(answers, theirs):
            return cost
        judged = [budget.judge(name, y, theirs[name], exact[name], case.dtype) for name, y in answers.items()]
        settled = budget.second_opinion(judged, lambda seed: chance_errors(self.component, case, seed))
        return cost | {verdict.label: max(cost[verdict.label], verdict.chance_error) for verdict in settled}

    def wrong_labels(self) -> set[str]:
        """What is asked about where answers are wrong; the empty label where there is none but an error."""
        found: set[str] = set()
        for case in self.trials():
            answers = self.answers(case)
            if not isinstance(answers, dict):
                found.add("")
                continue
            theirs, exact = reference_answers(self.component, case)
            cost = self.costs(case)
            found |= {name for name, y in answers.items() if not within({name: y}, theirs, exact, cost, case.dtype)}
        return found

    def surviving(self, known: Iterable[Mistake], kept: bool = True) -> dict[Mistake, Suspect]:
        """The mistakes that explain every answer; `kept`: their answers are kept for the next implementation."""
        suspects = {mistake: Suspect() for mistake in known}
        wrong = False
        for case in self.trials():
            answers = self.answers(case)
            assert answers is not None
            wrong = wrong or self.is_wrong(case)
            for mistake in list(suspects):
                if not self._fits(suspects[mistake], answers, mistake, case, kept):
                    del suspects[mistake]
            if wrong and not suspects:
                break
        return suspects

    def _fits(self, suspect: Suspect, answers: Answers | str, mistake: Mistake, case: Case, kept: bool) -> bool:
        """Whether the mistake explains the answers of the case; what they tell about it is noted down."""
        others = mistaken(self.component, mistake, case, kept)
        if isinstance(answers, str) or not isinstance(others, dict):
            return answers == others
        theirs, _ = reference_answers(self.component, case)

        def exactly() -> Answers | str | None:
            return exactly_mistaken(self.component, mistake, case, kept)

        return explains(suspect, answers, others, exactly, theirs, self.costs(case), case.dtype)


def trials(component: str, seed: int, profile: Profile) -> Iterator[Case]:
    """Every variant in the finest dtype, float32 where there is one, and the hard case in the others."""
    finest = dtypes(profile)[0]
    return (case for case in cases(component, seed, profile) if case.dtype == finest or case.variant == "hard")


def answered(component: str, implementation: Implementation, case: Case) -> Answers | str | None:
    """Answers to the question of a component, as `attempted` gives them."""
    return attempted(lambda: ask(component, implementation, case))


def attempted(question: Callable[[], Answer]) -> Answer | str | None:
    """The answer; None where it is refused; or how it breaks, numbers in the message left out."""
    try:
        return question()
    except NotImplementedError:
        return None
    except Exception as error:  # whatever a foreign implementation raises
        return re.sub(r"\d+", "", f"{type(error).__name__}: {error}")


def mistaken(component: str, mistake: Mistake, case: Case, kept: bool = True) -> Answers | str | None:
    """What the mistake answers to the question of a component, be it its own or one that uses it."""
    return (_mistaken if kept else _mistaken.__wrapped__)(component, mistake, case)


@lru_cache(maxsize=KEPT)
def _mistaken(component: str, mistake: Mistake, case: Case) -> Answers | str | None:
    return answered(component, mistake.implementation, case)


def exactly_mistaken(component: str, mistake: Mistake, case: Case, kept: bool = True) -> Answers | str | None:
    """The same in float64."""
    return (_exactly_mistaken if kept else _exactly_mistaken.__wrapped__)(component, mistake, case)


@lru_cache(maxsize=KEPT)
def _exactly_mistaken(component: str, mistake: Mistake, case: Case) -> Answers | str | None:
    return answered(component, type(mistake.implementation)(torch.float64), replace(case, exact=True))


def explains(
    suspect: Suspect,
    answers: Answers,
    others: Answers,
    exactly: Callable[[], Answers | str | None],
    theirs: Answers,
    cost: dict[str, float],
    dtype: torch.dtype,
) -> bool:
    """Whether answers are those of a mistake (`others`; `exactly` asks it in float64) up to rounding; what they tell
    about it is noted down. theirs, cost: transformers' answers, and how many ulps they are off the formula.
    """
    if not comparable(answers, others):
        return False
    if not same_bits(answers, others):
        suspect.bitwise = False
        exact = exactly() if is_plausible(answers, others, cost, dtype) else None
        if not isinstance(exact, dict) or not comparable(answers, exact, of_one_dtype=False):
            return False
        if not within(answers, others, exact, cost, dtype):
            return False
    note(suspect, answers, others, theirs, dtype)
    return True


def comparable(answers: Answers, others: Answers, of_one_dtype: bool = True) -> bool:
    """Answers may be fewer: a question leaves out those that need a function which is not offered."""
    return answers.keys() <= others.keys() and all(
        answer.shape == others[label].shape and (answer.dtype == others[label].dtype or not of_one_dtype)
        for label, answer in answers.items()
    )


def same_bits(answers: Answers, others: Answers) -> bool:
    """Whether every answer is the other's bit for bit."""
    return all(_equal(answer, others[label]) for label, answer in answers.items())


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@cache
def costs(component: str, case: Case) -> dict[str, float]:
    """How many ulps transformers is off the formula, by label: what rounding costs there."""
    theirs, right = reference_answers(component, case)
    return {label: furthest(theirs[label], right[label], case.dtype) for label in theirs}


def is_plausible(answers: Answers, others: Answers, cost: dict[str, float], dtype: torch.dtype) -> bool:
    """Whether half of the answers are not far from the others'."""
    near = 0
    for label, answer in answers.items():
        allowed = budget.FACTOR * cost[label] + budget.ULPS
        near += furthest(answer, others[label], dtype) <= PLAUSIBLE * allowed
    return near * 2 >= len(answers)


def within(answers: Answers, others: Answers, exactly: Answers, cost: dict[str, float], dtype: torch.dtype) -> bool:
    """Whether answers are off the others' in float64 (`exactly`) by what rounding explains.

    The budget is that of the others or of transformers, whichever rounding costs more: both show what it costs on this
    question.
    """
    if not comparable(answers, others):
        return False
    for label, answer in answers.items():
        most = max(cost.get(label, 0.0), furthest(others[label], exactly[label], dtype))
        if not furthest(answer, exactly[label], dtype) <= budget.FACTOR * most + budget.ULPS:
            return False
    return True


def furthest(answer: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The largest distance of an entry, in ulps."""
    return distances(answer, exact, dtype).max().item()


def distances(answer: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """In ulps; nothing where both are not finite in the same way."""
    exact = exact.double()
    same = (answer == exact) | (answer.isnan() & exact.isnan())
    return budget.ulps(answer, exact, dtype).masked_fill(same, 0.0).nan_to_num(nan=math.inf)


def note(suspect: Suspect, answers: Answers, others: Answers, theirs: Answers, dtype: torch.dtype) -> None:
    """What the answers tell about a suspect that explains them."""
    for label, answer in answers.items():
        same = _equal(answer, others[label])
        standard = theirs[label]
        far = math.log2(FINEST) if same else farness(answer, others[label], dtype)
        suspect.distances.append(far)
        if standard.shape != answer.shape or standard.dtype != answer.dtype:
            suspect.advantages.append(-math.log2(FINEST))
        elif not _equal(standard, others[label]):
            suspect.advantages.append(farness(answer, standard, dtype) - far)


def farness(answer: Tensor, other: Tensor, dtype: torch.dtype) -> float:
    """log₂ of the mean distance in ulps."""
    return math.log2(min(distances(answer, other, dtype).mean().item(), 2.0**60) + FINEST)
