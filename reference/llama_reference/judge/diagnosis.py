r"""Which known mistake a wrong implementation looks like: the one that gives the same wrong answers.

Each known mistake is tried as if it were the standard. Being executable, it answers twice: in the dtype under test, as
transformers does, and in float64, as the formula does; so the budget that says whether an implementation computes what
transformers computes says as well whether it computes what the mistake computes, however it orders its operations.
Of several that fit, the nearest comes first:

    nearness = mean over answers of log₂(mean distance in ulps)

The logarithm lets every answer count alike: those in bfloat16 and float16, where rounding in another place shows in
many entries or in none, tell apart what differs by rounding only. Where the answers are right up to rounding, a mistake
is named only when it is nearer than transformers itself by MARGIN; where they are right altogether, gradients are
compared in the same way; and where these are right too, the properties that do not hold. An implementation that gives
another answer each time is compared by its mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.judge.comparison import (
    NO_GRADIENTS,
    ask,
    cases,
    gradient_variants,
    reference_answers,
    reference_gradients,
)
from llama_reference.mistakes import Mistake
from llama_reference.questions import properties
from llama_reference.questions.checks import gradients
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import FULL, Profile

MARGIN = 1.0  # in log₂: half as far from the mistake as from transformers
# Unless half of its answers are within this many times what the budget allows transformers, a suspect is not worth its
# answers in float64. (Of a mistake that makes rounding worse, such as attention without its norm, some are not.)
PLAUSIBLE = 64
TIMES = 16  # that an implementation which answers at random is asked
_FINEST = 2.0**-12  # ulps: equal bits are not infinitely near


@dataclass(frozen=True)
class Likeness:
    """A known mistake that reproduces wrong answers."""

    mistake: Mistake
    bitwise: bool
    nearness: float = 0.0  # the less the nearer

    def __str__(self) -> str:
        sure = "these are its bits" if self.bitwise else "within rounding"
        return f"looks like `{self.mistake.name}` ({sure}): {self.mistake.why} [seen: {self.mistake.seen}]"


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


def looks_like(
    component: str, implementation: Implementation, seed: int = 0, profile: Profile = FULL
) -> list[Likeness]:
    """The known mistakes of the component that reproduce all answers of a wrong implementation, the nearest first.

    Empty when no known mistake does, or when nothing is wrong.
    """
    if _restless(component, implementation, seed, profile):
        return _alike_on_average(component, implementation, seed, profile)
    suspects = {form: Suspect() for mistake in mistakes.of(component, profile) for form in mistake.forms}
    answered = wrong = False
    for case in _trials(component, seed, profile):
        answers = _answered(component, implementation, case)
        if answers is None:  # what it refuses tells nothing, and must not cost the names that the rest determines
            continue
        answered = True
        theirs, exact = reference_answers(component, case)
        wrong = (
            wrong or isinstance(answers, str) or not _within(answers, theirs, exact, costs(component, case), case.dtype)
        )
        for mistake in list(suspects):
            if not _fits(suspects[mistake], answers, mistake, case):
                del suspects[mistake]
        if wrong and not suspects:
            return []
    if not answered:
        return []
    if not wrong:
        nearer = {mistake: suspect for mistake, suspect in suspects.items() if suspect.is_nearer}
        right = list(suspects)
        suspects = (
            nearer
            or _same_gradients(component, implementation, right, seed, profile)
            or _same_breaches(implementation, right, profile)
        )
    return _sorted(suspects)


def _trials(component: str, seed: int, profile: Profile) -> Iterator[Case]:
    """Every variant in the finest dtype, float32 where there is one, and the hard case in the others."""
    finest = dtypes(profile)[0]
    return (case for case in cases(component, seed, profile) if case.dtype == finest or case.variant == "hard")


def _sorted(suspects: dict[Mistake, Suspect]) -> list[Likeness]:
    """The nearest first; each mistake in its nearest form."""
    found = [Likeness(mistake, suspect.bitwise, suspect.nearness) for mistake, suspect in suspects.items()]
    found.sort(key=lambda likeness: (not likeness.bitwise, likeness.nearness))
    nearest: dict[str, Likeness] = {}
    for likeness in found:
        nearest.setdefault(likeness.mistake.name, likeness)
    return list(nearest.values())


# answers


def _answered(component: str, implementation: Implementation, case: Case) -> Answers | str | None:
    """Answers; None where it refuses the question; or how it breaks, numbers in the message left out."""
    try:
        return ask(component, implementation, case)
    except NotImplementedError:
        return None
    except Exception as error:  # whatever a foreign implementation raises
        return re.sub(r"\d+", "", f"{type(error).__name__}: {error}")


@cache
def _mistaken(mistake: Mistake, case: Case) -> Answers | str | None:
    return _answered(mistake.component, mistake.implementation, case)


@cache
def _exactly_mistaken(mistake: Mistake, case: Case) -> Answers | str | None:
    exact = replace(case, exact=True)
    return _answered(mistake.component, type(mistake.implementation)(torch.float64), exact)


def _fits(suspect: Suspect, answers: Answers | str, mistake: Mistake, case: Case) -> bool:
    """Whether the mistake explains the answers of the case; what they tell about it is noted down."""
    others = _mistaken(mistake, case)
    if isinstance(answers, str) or not isinstance(others, dict):
        return answers == others
    theirs, _ = reference_answers(mistake.component, case)
    if not _comparable(answers, others):
        return False
    if not _same_bits(answers, others):
        suspect.bitwise = False
        cost = costs(mistake.component, case)
        exact = _exactly_mistaken(mistake, case) if _plausible(answers, others, cost, case.dtype) else None
        if not isinstance(exact, dict) or not _comparable(answers, exact, of_one_dtype=False):
            return False
        if not _within(answers, others, exact, cost, case.dtype):
            return False
    _note(suspect, answers, others, theirs, case.dtype)
    return True


def _comparable(answers: Answers, others: Answers, of_one_dtype: bool = True) -> bool:
    """Answers may be fewer: a question leaves out those that need a function which is not offered."""
    return answers.keys() <= others.keys() and all(
        answer.shape == others[label].shape and (answer.dtype == others[label].dtype or not of_one_dtype)
        for label, answer in answers.items()
    )


def _same_bits(answers: Answers, others: Answers) -> bool:
    return all(_equal(answer, others[label]) for label, answer in answers.items())


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@cache
def costs(component: str, case: Case) -> dict[str, float]:
    """How many ulps transformers is off the formula, by label: what rounding costs there."""
    theirs, right = reference_answers(component, case)
    return {label: _furthest(theirs[label], right[label], case.dtype) for label in theirs}


def _plausible(answers: Answers, others: Answers, cost: dict[str, float], dtype: torch.dtype) -> bool:
    near = 0
    for label, answer in answers.items():
        allowed = budget.FACTOR * cost[label] + budget.ULPS
        near += _furthest(answer, others[label], dtype) <= PLAUSIBLE * allowed
    return near * 2 >= len(answers)


def _within(answers: Answers, others: Answers, exactly: Answers, cost: dict[str, float], dtype: torch.dtype) -> bool:
    """Whether answers are off the others' in float64 (`exactly`) by what rounding explains.

    The budget is that of the others or of transformers, whichever rounding costs more: both show what it costs on this
    question.
    """
    if not _comparable(answers, others):
        return False
    for label, answer in answers.items():
        most = max(cost.get(label, 0.0), _furthest(others[label], exactly[label], dtype))
        if not _furthest(answer, exactly[label], dtype) <= budget.FACTOR * most + budget.ULPS:
            return False
    return True


def _furthest(answer: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    return _distances(answer, exact, dtype).max().item()


def _distances(answer: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
    """In ulps; nothing where both are not finite in the same way."""
    exact = exact.double()
    same = (answer == exact) | (answer.isnan() & exact.isnan())
    return budget.ulps(answer, exact, dtype).masked_fill(same, 0.0).nan_to_num(nan=math.inf)


def _note(suspect: Suspect, answers: Answers, others: Answers, theirs: Answers, dtype: torch.dtype) -> None:
    for label, answer in answers.items():
        same, standard = _equal(answer, others[label]), theirs[label]
        far = math.log2(_FINEST) if same else _logarithm(_distances(answer, others[label], dtype))
        suspect.distances.append(far)
        if standard.shape != answer.shape or standard.dtype != answer.dtype:
            suspect.advantages.append(-math.log2(_FINEST))
        elif not _equal(standard, others[label]):
            suspect.advantages.append(_logarithm(_distances(answer, standard, dtype)) - far)


def _logarithm(distances: Tensor) -> float:
    return math.log2(min(distances.mean().item(), 2.0**60) + _FINEST)


# gradients


def _same_gradients(
    component: str, implementation: Implementation, suspects: list[Mistake], seed: int, profile: Profile
) -> dict[Mistake, Suspect]:
    """Of mistakes whose answers are right, those with the implementation's wrong gradients."""
    if component in NO_GRADIENTS:
        return {}
    wrong = False
    found = {mistake: Suspect() for mistake in suspects}
    for variant in gradient_variants(component, profile):
        case = Case(variant, dtypes(profile)[0], seed, profile=profile)
        references = reference_gradients(component, variant, case.dtype, seed, profile)
        theirs, right = (_whole(answers) for answers in references)
        try:
            answers = _whole(gradients.ask(component, implementation, case))
        except NotImplementedError:
            continue
        cost = {label: _furthest(theirs[label], right[label], case.dtype) for label in theirs}
        wrong = wrong or not _gradients_within(answers, theirs, right, cost, case.dtype)
        for mistake in list(found):
            others, exact = _mistaken_gradients(mistake, case)
            same = answers.keys() == others.keys() and _same_bits(answers, others)
            if not same and not _gradients_within(answers, others, exact, cost, case.dtype):
                del found[mistake]
            else:
                found[mistake].bitwise &= same
                _note(found[mistake], answers, others, theirs | others, case.dtype)
    return found if wrong else {}


def _gradients_within(
    answers: Answers, others: Answers, exact: Answers, cost: dict[str, float], dtype: torch.dtype
) -> bool:
    """_within, of gradients of the same tensors, be it others than transformers has some of."""
    return answers.keys() == others.keys() and _within(answers, others, exact, cost, dtype)


@cache
def _mistaken_gradients(mistake: Mistake, case: Case) -> tuple[Answers, Answers]:
    exactly = type(mistake.implementation)(torch.float64)
    return (
        _whole(gradients.ask(mistake.component, mistake.implementation, case)),
        _whole(gradients.ask(mistake.component, exactly, replace(case, exact=True))),
    )


def _whole(answers: Answers) -> Answers:
    """As one row each: gradients are compared relative to their largest entry (standard.budget.ulps)."""
    return {label: answer.flatten() for label, answer in answers.items()}


# properties


def _same_breaches(implementation: Implementation, suspects: list[Mistake], profile: Profile) -> dict[Mistake, Suspect]:
    """Of mistakes whose answers and gradients are right, those that break the same claims, and some."""
    claims = properties.of(suspects[0].component) if suspects else ()
    broken = _breaches(implementation, claims, profile)
    return {
        mistake: Suspect()
        for mistake in suspects
        if broken and _breaches(mistake.implementation, claims, profile) == broken
    }


@torch.no_grad()
def _breaches(implementation: Implementation, claims: tuple[properties.Claim, ...], profile: Profile) -> list[str]:
    return [claim.name for claim in claims if not claim.holds(implementation, draws=1, profile=profile)]


# answers that are another each time


def _restless(component: str, implementation: Implementation, seed: int, profile: Profile) -> bool:
    case = next(_trials(component, seed, profile))
    first, second = (_answered(component, implementation, case) for _ in range(2))
    if not isinstance(first, dict) or not isinstance(second, dict):
        return False
    return _comparable(first, second) and not _same_bits(first, second)


def _alike_on_average(component: str, implementation: Implementation, seed: int, profile: Profile) -> list[Likeness]:
    """Mistakes that answer at random too, about the same mean: no further from it than twice what chance explains."""
    case = next(_trials(component, seed, profile))
    mean, error = _mean(component, implementation, case)
    found = []
    for mistake in mistakes.of(component, profile):
        if _restless(component, mistake.implementation, seed, profile):
            others, doubt = _mean(component, mistake.implementation, case)
            distance = ((mean - others).pow(2).mean() / (error**2 + doubt**2).mean()).sqrt().item()
            if distance <= budget.FACTOR:
                found.append(Likeness(mistake, False, distance))
    return sorted(found, key=lambda likeness: likeness.nearness)


def _mean(component: str, implementation: Implementation, case: Case) -> tuple[Tensor, Tensor]:
    """Over TIMES askings: the mean of every number of the answers, and its standard error."""
    drawn = [ask(component, implementation, case) for _ in range(TIMES)]
    rows = torch.stack([torch.cat([answer.double().flatten() for answer in one.values()]) for one in drawn])
    return rows.mean(0), rows.std(0) / TIMES**0.5
