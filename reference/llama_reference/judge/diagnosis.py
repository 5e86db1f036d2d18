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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.judge.agreement import (
    Evidence,
    Suspect,
    answered,
    comparable,
    furthest,
    note,
    same_bits,
    trials,
    within,
)
from llama_reference.judge.comparison import NO_GRADIENTS, ask, gradient_variants, reference_gradients
from llama_reference.judge.reasoning import further
from llama_reference.mistakes import Mistake
from llama_reference.questions import properties
from llama_reference.questions.checks import gradients
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import FULL, Profile

TIMES = 16  # that an implementation which answers at random is asked


@dataclass(frozen=True)
class Likeness:
    """A known mistake that reproduces wrong answers, or two."""

    mistake: Mistake
    bitwise: bool
    nearness: float = 0.0  # the less the nearer
    asked: str = ""  # the component whose answers they are

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """The mistake, or both where they are two."""
        return tuple(part for mistake in self.mistake.parts for part in _apart(mistake)) or (self.mistake,)

    @property
    def title(self) -> str:
        sure = "these are its bits" if self.bitwise else "within rounding"
        names = " and ".join(self._told(mistake) for mistake in self.mistakes)
        return f"looks like {names} ({sure})"

    @property
    def why(self) -> str:
        """What is done instead of what, and where it was seen."""
        return f"{self.mistake.why} [seen: {self.mistake.seen}]"

    def __str__(self) -> str:
        return f"{self.title}: {self.why}"

    def _told(self, mistake: Mistake) -> str:
        here = not self.asked or mistake.component == self.asked
        return f"`{mistake.name}`" if here else f"`{mistake.name}` of {mistake.component}"


def _apart(mistake: Mistake) -> tuple[Mistake, ...]:
    return tuple(part for one in mistake.parts for part in _apart(one)) or (mistake,)


def looks_like(
    component: str, implementation: Implementation, seed: int = 0, profile: Profile = FULL
) -> list[Likeness]:
    """The known mistakes that reproduce all answers of a wrong implementation, the nearest first: the component's own,
    or what judge.reasoning finds where none of these does.

    Empty when nothing does, or when nothing is wrong.
    """
    whole = Evidence(component, implementation, seed, profile)
    found = _explained(whole)
    if found or not whole.is_broken:
        return found
    return next(filter(None, map(_explained, less(whole))), [])


def less(broken: Evidence) -> Iterator[Evidence]:
    """Without what may be too much for who breaks: a mask that does not fit the length of a cache, a crop beyond it."""
    about = broken.component, broken.implementation, broken.seed
    unpadded = replace(broken.profile, padding=False)
    if broken.profile.padding:
        yield Evidence(*about, unpadded)
    if broken.component == "kv_cache":
        yield Evidence("kv_cache", RefusesWhatBreaks(broken.implementation), broken.seed, unpadded)


class RefusesWhatBreaks:
    """An implementation that refuses what it would break at: what was answered before that counts."""

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._implementation, name)
        return function if name == "build" else _refusing(function)


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def asked(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # whatever a foreign implementation raises
            raise NotImplementedError from error

    return asked


def _explained(evidence: Evidence) -> list[Likeness]:
    """What explains all the evidence there is."""
    about = component, implementation, seed, profile = (
        evidence.component, evidence.implementation, evidence.seed, evidence.profile
    )  # fmt: skip
    if _restless(*about):
        return _alike_on_average(*about)
    suspects = evidence.surviving(form for mistake in mistakes.of(component, profile) for form in mistake.forms)
    asked = list(evidence.trials())
    if not asked:
        return []
    if not any(map(evidence.is_wrong, asked)):
        nearer = {mistake: suspect for mistake, suspect in suspects.items() if suspect.is_nearer}
        right = list(suspects)
        suspects = (
            nearer
            or _same_gradients(component, implementation, right, seed, profile)
            or _same_breaches(implementation, right, profile)
        )
    elif not suspects and not evidence.is_broken:
        suspects = further(
            evidence, lambda inner: [like.mistake for like in looks_like(inner, implementation, seed, profile)]
        )
    return nearest_first(suspects, component)


def nearest_first(suspects: dict[Mistake, Suspect], component: str) -> list[Likeness]:
    """The nearest first; each mistake in its nearest form."""
    found = [Likeness(mistake, suspect.bitwise, suspect.nearness, component) for mistake, suspect in suspects.items()]
    found.sort(key=lambda likeness: (not likeness.bitwise, round(likeness.nearness, 2), _length(likeness.mistake)))
    nearest: dict[str, Likeness] = {}
    for likeness in found:
        nearest.setdefault(likeness.mistake.name, likeness)
    return list(nearest.values())


def _length(mistake: Mistake) -> int:
    """Of what is told: of two explanations that are equally near, the shorter number comes first."""
    return 0 if mistake.number is None else len(f"{mistake.number:g}")


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
        theirs, right = map(_whole, reference_gradients(component, variant, case.dtype, seed, profile))
        try:
            answers = _whole(gradients.ask(component, implementation, case))
        except NotImplementedError:
            continue
        cost = {label: furthest(theirs[label], right[label], case.dtype) for label in theirs}
        wrong = wrong or not _gradients_within(answers, theirs, right, cost, case.dtype)
        for mistake in list(found):
            others, exact = _mistaken_gradients(mistake, case)
            same = answers.keys() == others.keys() and same_bits(answers, others)
            if not same and not _gradients_within(answers, others, exact, cost, case.dtype):
                del found[mistake]
            else:
                found[mistake].bitwise &= same
                note(found[mistake], answers, others, theirs | others, case.dtype)
    return found if wrong else {}


def _gradients_within(
    answers: Answers, others: Answers, exact: Answers, cost: dict[str, float], dtype: torch.dtype
) -> bool:
    """_within, of gradients of the same tensors, be it others than transformers has some of."""
    return answers.keys() == others.keys() and within(answers, others, exact, cost, dtype)


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
    case = next(trials(component, seed, profile))
    first = answered(component, implementation, case)
    second = answered(component, implementation, case)
    if not isinstance(first, dict) or not isinstance(second, dict):
        return False
    return comparable(first, second) and not same_bits(first, second)


def _alike_on_average(component: str, implementation: Implementation, seed: int, profile: Profile) -> list[Likeness]:
    """Mistakes that answer at random too, about the same mean: no further from it than twice what chance explains."""
    case = next(trials(component, seed, profile))
    mean, error = _mean(component, implementation, case)
    found = []
    for mistake in mistakes.of(component, profile):
        if _restless(component, mistake.implementation, seed, profile):
            others, doubt = _mean(component, mistake.implementation, case)
            distance = ((mean - others).pow(2).mean() / (error**2 + doubt**2).mean()).sqrt().item()
            if distance <= budget.FACTOR:
                found.append(Likeness(mistake, False, distance, component))
    return sorted(found, key=lambda likeness: likeness.nearness)


def _mean(component: str, implementation: Implementation, case: Case) -> tuple[Tensor, Tensor]:
    """Over TIMES askings: the mean of every number of the answers, and its standard error."""
    drawn = [ask(component, implementation, case) for _ in range(TIMES)]
    rows = torch.stack([torch.cat([answer.double().flatten() for answer in one.values()]) for one in drawn])
    return rows.mean(0), rows.std(0) / TIMES**0.5
