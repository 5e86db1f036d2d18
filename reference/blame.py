"""Which component of a wrong model is to blame.

Logits tell that something is wrong, never what; and the first activation that differs belongs to whoever was handed a
wrong input just as often as to whoever made the mistake. So every component of every layer is asked alone, with the
activations of transformers' own run. The implementation answers with its own parts, as they were built: with the eps,
theta and mask that they really use. Of those that fail, the guilty ones are the innermost:

    llama > block > rms_norm, attention > rotary, swiglu
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference import budget
from reference.budget import Verdict
from reference.exam import IN_CHUNKS, Exam, Question

BITWISE, WITHIN, WRONG, MISSING, VOID = "bitwise", "within", "WRONG", "not offered", "void"


@dataclass(frozen=True)
class Finding:
    """What became of one question; without a verdict, `problem` says why there is none."""

    layer: int | None
    name: str
    where: str
    how: str
    status: str
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.status in (BITWISE, WITHIN)

    def __str__(self) -> str:
        return str(self.verdict) if self.verdict else f"{self.where}, {self.how}: {self.problem}"


def find(implementation: Any, exam: Exam) -> list[Finding]:
    """The implementation's result on every question: a failure to answer is a finding too, never an exception."""
    about = (None, "build", "build", "of the model")
    if getattr(implementation, "build", None) is None:
        return [Finding(*about, MISSING, problem="not offered: no function build")]
    try:
        handle = implementation.build(exam.config, exam.state, exam.dtype)
    except Exception as error:
        return [_unanswered(*about, error)]
    return [_find(implementation, handle, question, exam.dtype) for question in exam.questions]


def guilty(findings: list[Finding], bitwise: bool = False) -> list[Finding]:
    """The first failed question of each guilty component: of those that fail, and nothing within them does.

    bitwise: whoever has not transformers' bits fails, which alone shows a rounding in another place.
    """
    failed = [finding for finding in findings if finding.status == WRONG or (bitwise and finding.status == WITHIN)]
    excused = {outer for finding in failed for outer in _around(finding.name, finding.layer)}
    first: dict[tuple[str, str], Finding] = {}
    for finding in failed:
        if (finding.name, finding.layer) not in excused:
            first.setdefault((finding.name, finding.where), finding)
    return list(first.values())


def judged(layer: int | None, name: str, where: str, how: str, answer: Tensor, theirs: Tensor, exact: Tensor,
           dtype: torch.dtype) -> Finding:  # fmt: skip
    """The finding on an answer. An answer that cannot be compared, by its shape or type, is wrong."""
    about = (layer, name, where, how)
    if not (theirs.isfinite().all() and exact.isfinite().all()):
        return Finding(*about, VOID, problem="void, the reference itself is not finite")
    try:
        verdict = budget.judge(f"{where}, {how}", answer, theirs, exact, dtype)
    except Exception as error:
        return _unanswered(*about, error)
    return Finding(*about, BITWISE if verdict.bitwise else WITHIN if verdict.within else WRONG, verdict)


@torch.no_grad()
def _find(implementation: Any, handle: Any, question: Question, dtype: torch.dtype) -> Finding:
    about = (question.layer, question.name, question.where, question.how)
    needed = (question.name, "new_cache") if question.how == IN_CHUNKS else (question.name,)
    if lacking := [name for name in needed if getattr(implementation, name, None) is None]:
        return Finding(*about, MISSING, problem=f"not offered: no function {lacking[0]}")
    try:
        answer = question.ask(implementation, handle)
    except Exception as error:
        return _unanswered(*about, error)
    return judged(*about, answer, question.theirs, question.exact, dtype)


def _unanswered(layer: int | None, name: str, where: str, how: str, error: Exception) -> Finding:
    message = " ".join(str(error).split())
    if isinstance(error, NotImplementedError):
        return Finding(layer, name, where, how, MISSING, problem=f"not offered: {message or 'NotImplementedError'}")
    return Finding(layer, name, where, how, WRONG, problem=f"{type(error).__name__}: {message}")


def _around(name: str, layer: int | None) -> Iterator[tuple[str, int | None]]:
    """The components that this one is a part of, from the inside out."""
    if name == "rotary":
        yield "attention", layer
    if name != "block" and layer is not None:
        yield "block", layer
    if name not in ("llama", "build"):
        yield "llama", None
