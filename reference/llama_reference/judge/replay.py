"""Which known mistake a wrong component of a checkpoint looks like: each is put to the very questions that it failed.

The mistakes answer with the checkpoint's own weights, activations and positions. What is near enough to be the same is
decided as in `agreement`: a mistake explains a component when all its answers are the mistake's up to rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.implementation import COMPONENTS, Handle, Implementation, State
from llama_reference.judge.agreement import Suspect, comparable, furthest, is_plausible, note, same_bits, within
from llama_reference.judge.diagnosis import Likeness, nearest_first
from llama_reference.judge.localization import Finding
from llama_reference.judge.reasoning import USES
from llama_reference.mistakes import Mistake
from llama_reference.questions.checks.check import Answers
from llama_reference.questions.layer_checks import LayerChecks, Question

OF_ONE_LAYER = ("rms_norm", "rotary", "attention", "swiglu")  # what uses the tensors of its own layer only


@dataclass(frozen=True)
class _Asked:
    """What a component answers to the questions of one exam, and the tensors that these need."""

    exam: LayerChecks
    state: State
    answers: list[tuple[Question, Tensor | str]]  # or how it breaks


@torch.no_grad()
def looks_like(implementation: Implementation, exams: list[LayerChecks], culprit: Finding) -> list[Likeness]:
    """The known mistakes that reproduce all answers of the culprit in all exams, the nearest first."""
    if culprit.name not in COMPONENTS:
        return []
    asked = [_ask(implementation, exam, culprit) for exam in exams]
    if not any(one.answers for one in asked):
        return []
    suspects = {}
    for name in (culprit.name, *USES.get(culprit.name, ())):
        for form in (form for mistake in mistakes.of(name) for form in mistake.forms):
            suspect = Suspect()
            if all(_explains(form, one, suspect) for one in asked):
                suspects[form] = suspect
    return nearest_first(suspects, culprit.name)


def _ask(implementation: Implementation, exam: LayerChecks, culprit: Finding) -> _Asked:
    """The component's answers, without those that it refuses."""
    handle = _or_none(partial(implementation.build, exam.config, exam.state, exam.dtype))
    about = culprit.name, culprit.layer, culprit.where
    questions = [q for q in exam.questions if (q.name, q.layer, q.where) == about and handle is not None]
    answers = [(q, _answer(q, implementation, handle)) for q in questions]
    at, whole = f"model.layers.{culprit.layer}.", culprit.name not in OF_ONE_LAYER
    needed = {key: w for key, w in exam.state.items() if whole or key.startswith(at) or ".layers." not in key}
    return _Asked(exam, needed, [(q, answer) for q, answer in answers if answer is not None])


def _explains(mistake: Mistake, asked: _Asked, suspect: Suspect) -> bool:
    """Whether all answers are the mistake's; what they tell about it is noted down."""
    exam, rounded = asked.exam, mistake.implementation
    exact: Implementation = _Widened(type(rounded)(torch.float64))
    handle = _or_none(lambda: rounded.build(exam.config, asked.state, exam.dtype))
    wide = _or_none(lambda: exact.build(exam.config, asked.state, exam.dtype))
    for question, answer in asked.answers:
        if isinstance(answer, str):
            if answer != _answer(question, rounded, handle):
                return False
            continue
        given, theirs = {question.how: answer}, {question.how: question.theirs}
        others = _labelled(question, rounded, handle)
        if others is None or not comparable(given, others):
            return False
        if not same_bits(given, others):
            suspect.bitwise = False
            cost = {question.how: furthest(question.theirs, question.exact, exam.dtype)}
            plausible = is_plausible(given, others, cost, exam.dtype)
            exactly = _labelled(question, exact, wide) if plausible else None
            if exactly is None or not within(given, others, exactly, cost, exam.dtype):
                return False
            again = _labelled(question, rounded, handle)
            if again is None or not same_bits(others, again):  # answers at random are near to anything
                return False
        note(suspect, given, others, theirs, exam.dtype)
    return True


def _answer(question: Question, implementation: Implementation, handle: Handle) -> Tensor | str | None:
    """An answer; None where it refuses; or how it breaks, numbers in the message left out."""
    try:
        return question.ask(implementation, handle)
    except NotImplementedError:
        return None
    except Exception as error:  # whatever a foreign implementation raises
        return re.sub(r"\d+", "", f"{type(error).__name__}: {error}")


def _labelled(question: Question, implementation: Implementation, handle: Handle) -> Answers | None:
    answer = None if handle is None else _answer(question, implementation, handle)
    return {question.how: answer} if isinstance(answer, Tensor) else None


def _or_none(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except Exception:
        return None


class _Widened:
    """An implementation in float64 whose inputs are widened on the way in."""

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._implementation, name)

        def widened(*arguments: Any, **options: Any) -> Any:
            return function(*_wide(arguments), **options)

        return function if name == "build" else widened


def _wide(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for x in arguments:
        yield x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
