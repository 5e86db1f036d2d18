"""Which component of a wrong model is to blame.

Logits tell that something is wrong, never what; and the first activation that differs belongs to whoever was handed a
wrong input just as often as to whoever made the mistake. So every component of every layer is asked alone, with the
activations of transformers' own run. The implementation answers with its own parts, as they were built: with the eps,
theta and mask that they really use. Of those that fail, the culprits are the innermost:

    generate > llama > block > rms_norm, attention > rotary, kv_cache; swiglu

Over a cache, attention may be wrong by its mask or by what the cache gives back. Where no mask is needed (one token at
a time, without padding) and attention is right in one pass, it is the cache.

What one run of the model does not show (gradients, the loss, choosing tokens, what else is done to caches) is asked of
the whole suite: `localize_by_suite`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Handle, Implementation
from llama_reference.judge import comparison
from llama_reference.questions import properties
from llama_reference.questions.activations import Inputs
from llama_reference.questions.layer_checks import (
    IN_CHUNKS,
    ONE_PASS,
    SILENCED,
    STEP_BY_STEP,
    LayerChecks,
    Question,
    prepare,
)
from llama_reference.standard import budget
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import LENGTH, ROPES, Case
from llama_reference.standard.outcome import Outcome
from llama_reference.standard.random_rounding import RandomRounding


@dataclass(frozen=True)
class Finding:
    """What became of one question; without a verdict, `problem` says why there is none."""

    layer: int | None
    name: str
    where: str
    how: str
    status: Outcome
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.status in (Outcome.BITWISE, Outcome.WITHIN)

    def __str__(self) -> str:
        return str(self.verdict) if self.verdict else f"{self.where}, {self.how}: {self.problem}"


def find(implementation: Implementation, checks: LayerChecks) -> list[Finding]:
    """The implementation's result on every question: a failure to answer is a finding too, never an exception."""
    about = (None, "build", "build", "of the model")
    if getattr(implementation, "build", None) is None:
        return [Finding(*about, Outcome.NOT_OFFERED, problem="not offered: no function build")]
    try:
        handle = implementation.build(checks.config, checks.state, checks.dtype)
    except Exception as error:
        return [_unanswered(*about, error)]
    return _settled([_find(implementation, handle, question, checks.dtype) for question in checks.questions], checks)


def culprits(findings: list[Finding], bitwise: bool = False) -> list[Finding]:
    """The first failed question of each culprit: of those that fail, and nothing within them does.

    bitwise: whoever has not transformers' bits fails, which alone shows a rounding in another place.
    """
    failed = _causes([f for f in findings if f.status == Outcome.WRONG or (bitwise and f.status == Outcome.WITHIN)])
    excused = {outer for finding in failed for outer in _around(finding.name, finding.layer)}
    blamed = [finding for finding in failed if (finding.name, finding.layer) not in excused]
    blamed += _of_the_head(failed, blamed)
    first: dict[tuple[str, str], Finding] = {}
    for finding in blamed:
        first.setdefault((finding.name, finding.where), finding)
    return list(first.values())


def _causes(failed: list[Finding]) -> list[Finding]:
    """Drop kv_cache failures explained by a failure without the cache or by a wrong rotary: they say nothing of it."""
    others = {(f.name, f.layer) for f in failed if f.how == ONE_PASS or f.name == "rotary"}
    turned = {name for name, _ in others if name == "rotary"}

    def explained(layer: int | None) -> bool:
        if layer is None:
            return ("llama", None) in others or bool(turned)
        return bool({("attention", layer), ("rotary", layer)} & others)

    return [f for f in failed if f.name != "kv_cache" or not explained(f.layer)]


def _of_the_head(failed: list[Finding], blamed: list[Finding]) -> list[Finding]:
    """Embedding and head are wrong beside a wrong layer when they are so where layers add nothing.

    Unless the last norm explains it, or a layer that is put together wrongly and so adds something all the same.
    """
    if any(f.name in ("block", "llama") or (f.name, f.layer) == ("rms_norm", None) for f in blamed):
        return []
    return [f for f in failed if f.how == SILENCED and f.verdict is not None and math.isfinite(f.verdict.error)]


def judged(layer: int | None, name: str, where: str, how: str, answer: Tensor, theirs: Tensor, exact: Tensor,
           dtype: torch.dtype) -> Finding:  # fmt: skip
    """The finding on an answer. An answer that cannot be compared, by its shape or type, is wrong."""
    about = (layer, name, where, how)
    if not (theirs.isfinite().all() and exact.isfinite().all()):
        return Finding(*about, Outcome.VOID, problem="void, the reference itself is not finite")
    try:
        verdict = budget.judge(f"{where}, {how}", answer, theirs, exact, dtype)
    except Exception as error:
        return _unanswered(*about, error)
    return Finding(*about, verdict.outcome, verdict)


@torch.no_grad()
def _find(implementation: Implementation, handle: Handle, question: Question, dtype: torch.dtype) -> Finding:
    about = (question.layer, question.name, question.where, question.how)
    asked = question.name if question.name != "kv_cache" else "llama" if question.layer is None else "attention"
    needed = (asked, "new_cache") if question.how in (IN_CHUNKS, STEP_BY_STEP) else (asked,)
    if lacking := [name for name in needed if getattr(implementation, name, None) is None]:
        return Finding(*about, Outcome.NOT_OFFERED, problem=f"not offered: no function {lacking[0]}")
    try:
        answer = question.ask(implementation, handle)
    except Exception as error:
        return _unanswered(*about, error)
    return judged(*about, answer, question.theirs, question.exact, dtype)


@torch.no_grad()
def _settled(findings: list[Finding], checks: LayerChecks) -> list[Finding]:
    """Re-judge the doubtful findings that decide the culprits, with the allowance of standard.budget."""
    settled: set[int] = set()
    while doubts := {id(f) for f in culprits(findings) if f.verdict and f.verdict.doubtful} - settled:
        pairs = zip(findings, checks.questions, strict=True)
        findings = [_reconsidered(f, question, checks) if id(f) in doubts else f for f, question in pairs]
        settled |= {id(f) for f in culprits(findings) if f.verdict and f.verdict.chance_error}
    return findings


def _reconsidered(found: Finding, question: Question, checks: LayerChecks) -> Finding:
    """The finding, once it is known how far off rounding by chance is."""
    assert found.verdict is not None

    def errors(seed: int) -> dict[str, float]:
        chance = RandomRounding(seed)
        answer = question.ask(chance, chance.build(checks.config, checks.state, checks.dtype))
        return {verdict.label: budget.ulps(answer, question.exact, checks.dtype).max().item()}

    verdict = found.verdict
    [verdict] = budget.second_opinion([verdict], errors)
    return replace(found, status=Outcome.WITHIN if verdict.within else Outcome.WRONG, verdict=verdict)


def _unanswered(layer: int | None, name: str, where: str, how: str, error: Exception) -> Finding:
    message = " ".join(str(error).split())
    if isinstance(error, NotImplementedError):
        return Finding(
            layer, name, where, how, Outcome.NOT_OFFERED, problem=f"not offered: {message or 'NotImplementedError'}"
        )
    return Finding(layer, name, where, how, Outcome.WRONG, problem=f"{type(error).__name__}: {message}")


def _around(name: str, layer: int | None) -> Iterator[tuple[str, int | None]]:
    """The components that this one is a part of, from the inside out."""
    if name in ("rotary", "kv_cache") and layer is not None:
        yield "attention", layer
    if name != "block" and layer is not None:
        yield "block", layer
    if name not in ("llama", "build"):
        yield "llama", None
    if layer is not None:
        yield "kv_cache", None


# the whole suite

# The cases that a model is examined on, the most telling first; every rope type, activation, eps and wiring is there.
EXAMINED = (
    *(("hard", dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    *((f"rope {name}", torch.float32) for name in ROPES if name != "llama3"),
    *((name, torch.float32) for name in ("tied", "eps 1e-2", "eps 1e-6", "gelu", "gelu_pytorch_tanh", "relu")),
    *((name, torch.float32) for name in ("no biases", "only attention biases", "one group", "a group a head")),
)
# Components that a run of the model does not show, or not all of, by the questions of their own NAME: those that use no
# other, which are asked first, and those that use the model, which are asked when it is right.
ALONE, ABOVE = ("loss", "sampling"), ("kv_cache", "generate")
# Where only gradients are wrong: from the inside out, so that the first is to blame.
DIFFERENTIATED = ("rms_norm", "rotary", "attention", "swiglu", "block", "llama", "loss")


def localize_by_suite(implementation: Implementation, seed: int = 0) -> list[Finding]:
    """The culprits of anything that the suite rejects: of answers, else gradients, else properties, else bits.

    Each kind is asked about only where the one before shows nothing, and stops at the first case that does.
    """
    for ask in (
        lambda: _first(_own(ALONE, implementation, seed)),
        *(lambda at=at: culprits(find(implementation, examined(*at, seed))) for at in EXAMINED),
        lambda: _first(_own(ABOVE, implementation, seed)),
        lambda: _first(_gradients(implementation, seed)),
        lambda: _first(_properties(implementation)),
        lambda: _first(_own(ALONE, implementation, seed), bitwise=True),
        *(lambda at=at: culprits(find(implementation, examined(*at, seed)), bitwise=True) for at in EXAMINED),
        lambda: _first(_own(ABOVE, implementation, seed), bitwise=True),
    ):
        if found := ask():
            return found
    return []


@cache
def examined(variant: str, dtype: torch.dtype, seed: int = 0) -> LayerChecks:
    """Checks of the hard case or a variant of it: longrope in its first context, which hard positions leave."""
    case = Case(variant, dtype, seed)
    positions = torch.arange(LENGTH).expand_as(case.tokens) if variant == "rope longrope" else case.positions
    return prepare(case.config, case.state, case.dtype, Inputs(case.tokens, positions, case.mask))


def _first(findings: Iterable[Finding], bitwise: bool = False) -> list[Finding]:
    return next(([f] for f in findings if f.status == Outcome.WRONG or (bitwise and f.status == Outcome.WITHIN)), [])


def _own(names: Iterable[str], implementation: Implementation, seed: int) -> Iterator[Finding]:
    """Each by the questions of its own NAME."""
    for name in names:
        for case in comparison.cases(name, seed):
            asked = partial(comparison.ask, name, implementation, case)
            yield from _put(name, f"{case.variant}, {case.dtype}", asked, partial(comparison.verdicts, name, case))


def _gradients(implementation: Implementation, seed: int) -> Iterator[Finding]:
    for name in DIFFERENTIATED:
        for variant in comparison.gradient_variants(name):
            judged = partial(comparison.gradient_verdicts, name, implementation, variant, torch.float32, seed)
            yield from _put(name, f"gradients, {variant}", lambda: None, lambda _, judged=judged: judged())


def _properties(implementation: Implementation) -> Iterator[Finding]:
    """Every claim about every component, the innermost first."""
    for name in (*DIFFERENTIATED[:-1], *ABOVE, *ALONE):
        for claim in properties.of(name):
            with torch.no_grad():
                held = claim.holds(implementation)
            outcome = Outcome.WITHIN if held else Outcome.WRONG
            how = f"property: {claim.name}"
            yield Finding(None, name, name, how, outcome, problem="does not hold")


def _put(
    name: str, how: str, asked: Callable[[], Any], judge: Callable[[Any], list[budget.Verdict]]
) -> Iterator[Finding]:
    """A question of the component's own NAME."""
    try:
        verdicts = judge(asked())
    except Exception as error:
        yield _unanswered(None, name, name, how, error)
        return
    for v in verdicts:
        yield Finding(None, name, name, how, v.outcome, v)
