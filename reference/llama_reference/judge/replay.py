"""Which known mistake a wrong component of a checkpoint looks like: each is put to the very questions that it failed.

The mistakes answer with the checkpoint's own weights, activations and positions. What is near enough to be the same is
decided as in `agreement`: a mistake explains a component when all its answers are the mistake's up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.implementation import COMPONENTS, Implementation, State
from llama_reference.judge.agreement import Suspect, comparable, furthest, is_plausible, note, same_bits, within
from llama_reference.judge.diagnosis import Likeness, nearest_first
from llama_reference.judge.localization import Finding
from llama_reference.mistakes import Mistake
from llama_reference.questions.checks.check import Answers
from llama_reference.questions.layer_checks import LayerChecks, Question

# What a component uses: where that was not asked alone, its mistakes show in the component's answers.
INNER = {
    "attention": ("rotary",),
    "block": ("rms_norm", "attention", "rotary", "swiglu"),
    "llama": ("block", "rms_norm", "attention", "rotary", "swiglu"),
}


@torch.no_grad()
def looks_like(implementation: Implementation, exam: LayerChecks, culprit: Finding) -> list[Likeness]:
    """The known mistakes that reproduce all answers of the culprit, the nearest first."""
    if culprit.name not in COMPONENTS:
        return []
    questions = [
        q for q in exam.questions if (q.name, q.layer, q.where) == (culprit.name, culprit.layer, culprit.where)
    ]
    answers = _answers(implementation, exam, questions)
    if not answers:
        return []
    suspects = {
        form: suspect
        for name in (culprit.name, *INNER.get(culprit.name, ()))
        for mistake in mistakes.of(name)
        for form in mistake.forms
        if (suspect := _explained(form, exam, questions, answers)) is not None
    }
    return nearest_first(suspects)


def _answers(implementation: Implementation, exam: LayerChecks, questions: list[Question]) -> list[Tensor | None]:
    """What it answers, in the order of the questions; None where it does not. Empty if it answers none."""
    try:
        handle = implementation.build(exam.config, exam.state, exam.dtype)
    except Exception:  # whatever a foreign implementation raises
        return []
    found = [_or_none(partial(question.ask, implementation, handle)) for question in questions]
    return found if any(answer is not None for answer in found) else []


def _explained(
    mistake: Mistake, exam: LayerChecks, questions: list[Question], answers: list[Tensor | None]
) -> Suspect | None:
    """What was found out about a mistake, or None if it gives other answers."""
    state = _needed(exam.state, questions[0].layer)
    rounded: Any = mistake.implementation
    exact: Any = _Widened(type(rounded)(torch.float64))
    handle = _or_none(lambda: rounded.build(exam.config, state, exam.dtype))
    wide = _or_none(lambda: exact.build(exam.config, state, exam.dtype))
    suspect = Suspect()
    for question, answer in zip(questions, answers, strict=True):
        if answer is None:
            continue
        given, theirs = {question.how: answer}, {question.how: question.theirs}
        cost = {question.how: furthest(question.theirs, question.exact, question.dtype)}
        others = _labelled(question, rounded, handle)
        if others is None or not comparable(given, others):
            return None
        if not same_bits(given, others):
            suspect.bitwise = False
            if not is_plausible(given, others, cost, question.dtype):
                return None
            exactly = _labelled(question, exact, wide)
            if exactly is None or not within(given, others, exactly, cost, question.dtype):
                return None
        note(suspect, given, others, theirs, question.dtype)
    return suspect


def _labelled(question: Question, implementation: Any, handle: Any) -> Answers | None:
    answer = None if handle is None else _or_none(lambda: question.ask(implementation, handle))
    return None if answer is None else {question.how: answer}


def _needed(state: State, layer: int | None) -> State:
    """The tensors of one layer, and those of none; all where the whole model is asked."""
    at = f"model.layers.{layer}."
    return {key: w for key, w in state.items() if layer is None or key.startswith(at) or ".layers." not in key}


def _or_none(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except Exception:
        return None


class _Widened:
    """An implementation in float64 whose inputs are widened on the way in."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._implementation, name)

        def widened(*arguments: Any, **options: Any) -> Any:
            return function(*_wide(arguments), **options)

        return function if name == "build" else widened


def _wide(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for x in arguments:
        yield x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
