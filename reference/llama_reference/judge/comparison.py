"""What the questions can tell: the verdicts on an implementation, and which sections reject it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch

from llama_reference.implementation import Implementation
from llama_reference.questions import properties
from llama_reference.questions.checks import CHECKS, gradients
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case, dtypes, within
from llama_reference.standard.profile import FULL, PARTS, Profile
from llama_reference.standard.random_rounding import RandomRounding
from llama_reference.standard.stepwise import StepwiseLlama

# Components without a gradient, and why.
NO_GRADIENTS = {name: check.no_gradients for name, check in CHECKS.items() if check.no_gradients}


def is_asked(component: str, profile: Profile) -> bool:
    """Whether there is anything to ask of the component within the profile."""
    return profile.cache if component == "kv_cache" else component not in PARTS or component in profile.parts


def variants(component: str, profile: Profile = FULL) -> tuple[str, ...]:
    """The variants of the hard model that a component is asked about within the profile, the most telling first."""
    return within(CHECKS[component].variants, profile) if is_asked(component, profile) else ()


def cases(component: str, seed: int = 0, profile: Profile = FULL) -> Iterator[Case]:
    """Every case that a component is asked about within the profile, the most telling first."""
    asked = [dtype for dtype in CHECKS[component].dtypes if dtype in dtypes(profile)]
    return (Case(variant, dtype, seed, profile=profile) for variant in variants(component, profile) for dtype in asked)


def ask(component: str, implementation: Implementation, case: Case) -> Answers:
    """The implementation's answers."""
    with torch.no_grad():
        return CHECKS[component].ask(implementation, case)


@cache
def oracle_answers(component: str, case: Case) -> Answers:
    """What transformers answers; computed once, however often it is needed."""
    return ask(component, oracle, case)


@cache
def reference_answers(component: str, case: Case) -> tuple[Answers, Answers]:
    """What transformers and the formula answer."""
    return oracle_answers(component, case), ask(component, formula, case)


@cache
def reference_gradients(
    component: str, variant: str, dtype: torch.dtype, seed: int = 0, profile: Profile = FULL
) -> tuple[Answers, Answers]:
    """transformers' gradients, and the exact ones, by autograd in float64."""
    case = Case(variant, dtype, seed, profile=profile)
    theirs = gradients.ask(component, oracle, case)
    return theirs, gradients.ask(component, StepwiseLlama(torch.float64), replace(case, exact=True))


def verdicts(component: str, case: Case, answers: Answers) -> list[Verdict]:
    """One verdict an answer. Raises ValueError where answers have another shape, or the reference is void.

    Answers may be fewer than transformers': a question leaves out those that need a function which is not offered.
    """
    check = CHECKS[component]
    if check.judge is not None:
        return check.judge(case, answers, oracle_answers(component, case))
    theirs, exact = reference_answers(component, case)
    theirs = {label: theirs[label] for label in theirs if label in answers}
    judged = _judged(answers, theirs, exact, case.dtype)
    if settle := check.interchangeable:
        given = {label: settle(label, x) for label, x in answers.items()}
        settled_theirs = {label: settle(label, x) for label, x in theirs.items()}
        settled_exact = {label: settle(label, x) for label, x in exact.items()}
        settled = _judged(given, settled_theirs, settled_exact, case.dtype)
        judged = [replace(v, bitwise=raw.bitwise) for v, raw in zip(settled, judged, strict=True)]
    return budget.second_opinion(judged, lambda seed: chance_errors(component, case, seed))


@cache
def chance_errors(component: str, case: Case, seed: int) -> dict[str, float]:
    """How far answers rounded by chance are off the formula, in ulps, by label."""
    _, exact = reference_answers(component, case)
    answers = ask(component, RandomRounding(seed), case)
    return {label: budget.ulps(answers[label], exact[label], case.dtype).max().item() for label in answers}


def gradient_verdicts(
    component: str,
    implementation: Implementation,
    variant: str,
    dtype: torch.dtype,
    seed: int = 0,
    profile: Profile = FULL,
) -> list[Verdict]:
    """One verdict a gradient. Raises ValueError where one is missing."""
    case = Case(variant, dtype, seed, profile=profile)
    # First, since building transformers' model draws random numbers, which an implementation may draw from, too.
    answers = gradients.ask(component, implementation, case)
    return judged_gradients(component, case, answers, *reference_gradients(component, variant, dtype, seed, profile))


def judged_gradients(component: str, case: Case, answers: Answers, theirs: Answers, exact: Answers) -> list[Verdict]:
    """One verdict a gradient, given transformers' and the exact ones."""
    judged = _judged(answers, theirs, exact, case.dtype, whole=True)

    def chance(seed: int) -> dict[str, float]:
        rounded = gradients.ask(component, RandomRounding(seed), case)
        return {k: budget.ulps(rounded[k], exact[k], case.dtype, whole=True).max().item() for k in rounded}

    return budget.second_opinion(judged, chance)


def _judged(
    answers: Answers, theirs: Answers, exact: Answers, dtype: torch.dtype, whole: bool = False
) -> list[Verdict]:
    if answers.keys() != theirs.keys():
        raise ValueError(f"answers to {sorted(answers.keys() ^ theirs.keys())} are missing or too many")
    return [budget.judge(label, answers[label], theirs[label], exact[label], dtype, whole) for label in theirs]


def rejections(component: str, implementation: Implementation, profile: Profile = FULL) -> set[str]:
    """Which sections reject the implementation: "formula", "oracle", "gradients", "properties"."""
    found = _answers_reject(component, implementation, profile)
    if component not in NO_GRADIENTS and _gradients_reject(component, implementation, profile):
        found.add("gradients")
    with torch.no_grad():
        if not all(claim.holds(implementation, profile=profile) for claim in properties.of(component)):
            found.add("properties")
    return found


def _answers_reject(component: str, implementation: Implementation, profile: Profile) -> set[str]:
    found: set[str] = set()
    for case in cases(component, profile=profile):
        try:
            judged = verdicts(component, case, ask(component, implementation, case))
        except (ValueError, RuntimeError, IndexError, TypeError):  # it breaks, or answers another question
            return {"formula", "oracle"}
        found |= {"oracle"} if not all(v.bitwise for v in judged) else set()
        found |= {"formula"} if not all(v.within for v in judged) else set()
        if {"oracle", "formula"} <= found:
            break
    return found


def _gradients_reject(component: str, implementation: Implementation, profile: Profile) -> bool:
    try:
        return not all(
            verdict.bitwise
            for variant in gradient_variants(component, profile)
            for verdict in gradient_verdicts(component, implementation, variant, dtypes(profile)[0], profile=profile)
        )
    except (ValueError, RuntimeError, IndexError, TypeError):
        return True


def gradient_variants(component: str, profile: Profile = FULL) -> tuple[str, ...]:
    """The variants whose gradients a known mistake is asked about."""
    check = CHECKS[component]
    if not is_asked(component, profile):
        return ()
    return within(check.gradient_variants, profile)[: check.telling_gradients]
