"""Where nothing is wrong but bits differ: by how much, and whether another order of operations gives as much.

For each component its worst right answer: its error in units of transformers' own, and how many right programs that
compute in another order are as far off. And how many of the likeliest next tokens differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from llama_reference.implementation import Implementation
from llama_reference.judge.error_growth import or_none
from llama_reference.judge.localization import Finding
from llama_reference.questions.layer_checks import ONE_PASS, LayerChecks, Question
from llama_reference.standard import budget
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.outcome import Outcome

SLOW = ("plain loops", "fused multiply-add")  # a term at a time, in Python


@dataclass(frozen=True)
class Rounding:
    """Of a component's worst answer that is right: errors in ulp, and how many of so many right programs, which compute
    it in another order, are as far off.
    """

    name: str
    how: str
    error: float
    oracle_error: float
    as_far: int
    programs: int

    @property
    def ratio(self) -> float:
        """Infinite where transformers' answer is the exact one, rounded."""
        return self.error / self.oracle_error if self.oracle_error else math.inf

    def __str__(self) -> str:
        others = f"{self.as_far} of {self.programs} right programs of another order are as far off"
        return f"{self.name}: {self.ratio:.2g} times transformers' own error ({self.how}); {others}"


@torch.no_grad()
def certified(checks: LayerChecks, findings: list[Finding]) -> list[Rounding]:
    """findings: those of `checks`, in the order of its questions."""
    worst: dict[str, tuple[Finding, Question]] = {}
    for finding, question in zip(findings, checks.questions, strict=False):
        if finding.status == Outcome.WITHIN:
            before = worst.get(finding.name)
            if before is None or _ratio(finding) > _ratio(before[0]):
                worst[finding.name] = finding, question
    return [_of(finding, question, checks) for finding, question in worst.values()]


def _ratio(finding: Finding) -> float:
    verdict = finding.verdict
    return verdict.error / max(verdict.oracle_error, torch.finfo(torch.float32).tiny) if verdict else 0.0


def _of(finding: Finding, question: Question, checks: LayerChecks) -> Rounding:
    assert finding.verdict is not None
    verdict = finding.verdict
    programs = [one for name, (one, moved) in REORDERINGS.items() if finding.name in moved and name not in SLOW]
    errors = [_error(program, question, checks) for program in programs]
    as_far = sum(error >= verdict.error for error in errors)
    how = f"{finding.where}, {finding.how}"
    return Rounding(finding.name, how, verdict.error, verdict.oracle_error, as_far, len(programs))


def _error(program: Implementation, question: Question, checks: LayerChecks) -> float:
    answer = question.ask(program, program.build(checks.config, checks.state, checks.dtype))
    return budget.ulps(answer, question.exact, checks.dtype).max().item()


@torch.no_grad()
def same_tokens(implementation: Implementation, checks: LayerChecks) -> tuple[int, int] | None:
    """At how many of how many positions both find the same token the likeliest; None where there are no logits."""
    handle = or_none(partial(implementation.build, checks.config, checks.state, checks.dtype))
    logits = next(q for q in checks.questions if (q.where, q.how) == ("logits", ONE_PASS))
    answer: Tensor | None = or_none(partial(logits.ask, implementation, handle))
    if answer is None or answer.shape != logits.theirs.shape:
        return None
    same = answer.argmax(-1) == logits.theirs.argmax(-1)
    return int(same.sum()), same.numel()
