"""What a run cannot see: the known mistakes that nothing rejects which a component was asked.

Where a Llama lacks something, mistakes in that cannot show; and some others neither, which need it to be seen. Each
known mistake is put to the questions that were answered until one rejects it, the clearest first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llama_reference import mistakes
from llama_reference.judge import comparison
from llama_reference.mistakes import Mistake
from llama_reference.questions import properties
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import Profile


def unseen(component: str, profile: Profile, answered: set[tuple[str, str]], bits: bool = False) -> list[str]:
    """Their names. answered: the (variant, dtype) that were compared; bits: whether other bits are rejected too."""
    cases = [case for case in comparison.cases(component, profile=profile) if _named(case) in answered]
    return [m.name for m in mistakes.of(component) if not is_seen(m, cases, profile, bits)]


def _named(case: Case) -> tuple[str, str]:
    return case.variant, str(case.dtype).removeprefix("torch.")


def is_seen(mistake: Mistake, cases: list[Case], profile: Profile, bits: bool = False) -> bool:
    """Whether an answer, a gradient or a property rejects it within the profile."""
    for judged in _judgements(mistake, cases, profile):
        if not all(verdict.bitwise if bits else verdict.within for verdict in judged):
            return True
    with torch.no_grad():
        return not all(
            claim.holds(mistake.implementation, profile=profile) for claim in properties.of(mistake.component)
        )


def _judgements(mistake: Mistake, cases: list[Case], profile: Profile) -> Iterator[list[Verdict]]:
    """The verdicts on one case after another; a mistake that breaks is seen."""
    component, broken = mistake.component, [Verdict("", torch.float32, False, float("inf"), 0.0, "raises")]
    for case in cases:
        try:
            answers = comparison.ask(component, mistake.implementation, case)
            yield comparison.verdicts(component, case, answers)
        except (ValueError, RuntimeError, IndexError, TypeError):
            yield broken
    if component in comparison.NO_GRADIENTS or not cases:
        return
    for variant in comparison.gradient_variants(component, profile):
        try:
            yield comparison.gradient_verdicts(
                component, mistake.implementation, variant, dtypes(profile)[0], profile=profile
            )
        except (ValueError, RuntimeError, IndexError, TypeError):
            yield broken
