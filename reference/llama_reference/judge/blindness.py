"""What a run cannot see: the known mistakes that nothing rejects which a component was asked.

Where a Llama lacks something, mistakes in that cannot show; and some others neither, which need it to be seen. Each
known mistake is put to the questions that were answered until one rejects it, the clearest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.judge import comparison
from llama_reference.mistakes import Mistake
from llama_reference.questions import properties
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import Profile


@dataclass(frozen=True)
class Asked:
    """What a component answered: variants and dtypes of its answers and of its gradients, and claims."""

    answers: frozenset[tuple[str, str]]
    gradients: frozenset[tuple[str, str]]
    claims: frozenset[str]


def everything(component: str, profile: Profile) -> Asked:
    """All that a known mistake is asked within the profile."""
    answers = frozenset(map(_named, comparison.cases(component, profile=profile)))
    variants = () if component in comparison.NO_GRADIENTS else comparison.gradient_variants(component, profile)
    claims = (claim.name for claim in properties.of(component) if not claim.lacking(profile))
    return Asked(answers, frozenset((v, profile.dtype[0]) for v in variants), frozenset(claims))


def unseen(component: str, profile: Profile, asked: Asked, bits: bool = False) -> list[str]:
    """The names of those that nothing asked rejects; bits: whether other bits are rejected too."""
    return [m.name for m in mistakes.of(component, profile) if not is_seen(component, m, profile, asked, bits)]


def is_seen(component: str, mistake: Mistake, profile: Profile, asked: Asked, bits: bool = False) -> bool:
    """Whether an answer, a gradient or a property rejects it."""
    for judged in _judgements(component, mistake.implementation, profile, asked):
        if not all(verdict.bitwise if bits else verdict.within for verdict in judged):
            return True
    claims = (claim for claim in properties.of(component) if claim.name in asked.claims)
    with torch.no_grad():
        return not all(claim.holds(mistake.implementation, profile=profile) for claim in claims)


def _judgements(
    component: str, implementation: Implementation, profile: Profile, asked: Asked
) -> Iterator[list[Verdict]]:
    """The verdicts on one case after another; a mistake that breaks is seen."""
    broken = [Verdict("", torch.float32, False, float("inf"), 0.0, "raises")]
    for case in comparison.cases(component, profile=profile):
        if _named(case) in asked.answers:
            try:
                yield comparison.verdicts(component, case, comparison.ask(component, implementation, case))
            except (ValueError, RuntimeError, IndexError, TypeError):
                yield broken
    finest = dtypes(profile)[0]
    for variant in comparison.gradient_variants(component, profile):
        if (variant, profile.dtype[0]) in asked.gradients:
            try:
                yield comparison.gradient_verdicts(component, implementation, variant, finest, profile=profile)
            except (ValueError, RuntimeError, IndexError, TypeError):
                yield broken


def _named(case: Case) -> tuple[str, str]:
    return case.variant, str(case.dtype).removeprefix("torch.")
