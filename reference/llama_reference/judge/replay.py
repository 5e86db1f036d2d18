"""Which known mistake a wrong component of a checkpoint looks like: each is put to the very questions that it failed.

The mistakes answer with the checkpoint's own weights, activations and positions. What is near enough to be the same is
decided as in `agreement`: a mistake explains a component when all its answers are the mistake's up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.implementation import COMPONENTS, Implementation, State
from llama_reference.judge.agreement import Suspect, attempted, explains, furthest, same_bits
from llama_reference.judge.diagnosis import Likeness, nearest_first
from llama_reference.judge.error_growth import or_none
from llama_reference.judge.localization import Finding
from llama_reference.judge.reasoning import USES
from llama_reference.mistakes import Mistake
from llama_reference.questions.checks.check import Answers
from llama_reference.questions.layer_checks import LayerChecks, Question

OF_ONE_LAYER = ("rms_norm", "rotary", "attention", "swiglu")  # what uses the tensors of its own layer only


@dataclass(frozen=True)
class _Asked:
    """What a component answers to the questions of one set of checks, and the tensors that these need."""

    checks: LayerChecks
    state: State
    answers: list[tuple[Question, Tensor | str]]  # or how it breaks


class _Part(dict[str, Tensor]):
    """Some tensors of a state, which are built from; the others are there for a mistake that takes a tensor from
    elsewhere.
    """

    def __init__(self, needed: State, whole: State) -> None:
        super().__init__(needed)
        self._whole = whole

    def __missing__(self, name: str) -> Tensor:
        return self._whole[name]


@torch.no_grad()
def looks_like(
    implementation: Implementation, all_checks: list[LayerChecks], culprits: list[Finding]
) -> list[Likeness]:
    """The known mistakes that reproduce all answers of a component in all checks, the nearest first.

    culprits: of one component, in the order of layers. The first and the last are asked; where nothing explains both,
    the first alone.
    """
    first = culprits[0]
    if first.name not in COMPONENTS:
        return []
    named = [mistake for name in (first.name, *USES.get(first.name, ())) for mistake in mistakes.of(name)]
    for chosen in ([first, culprits[-1]], [first])[len(culprits) == 1 :]:
        asked = [_ask(implementation, checks, culprit) for culprit in chosen for checks in all_checks]
        asked = [one for one in asked if one.answers]
        suspects = _surviving(named, asked) or _surviving(mistakes.in_weights(first.name), asked)
        if asked and suspects:
            return nearest_first(suspects, first.name)
    return []


def _surviving(known: Iterable[Mistake], asked: list[_Asked]) -> dict[Mistake, Suspect]:
    """Those that explain all answers."""
    found = {}
    for form in (form for mistake in known for form in mistake.forms):
        suspect = Suspect()
        if all(_explains(form, one, suspect) for one in asked):
            found[form] = suspect
    return found


def _ask(implementation: Implementation, checks: LayerChecks, culprit: Finding) -> _Asked:
    """The component's answers, without those that it refuses."""
    handle = or_none(partial(implementation.build, checks.config, checks.state, checks.dtype))
    about = culprit.name, culprit.layer, culprit.where
    questions = [q for q in checks.questions if (q.name, q.layer, q.where) == about and handle is not None]
    answers = [(q, attempted(partial(q.ask, implementation, handle))) for q in questions]
    at = f"model.layers.{culprit.layer}."
    whole = culprit.name not in OF_ONE_LAYER
    needed = {key: w for key, w in checks.state.items() if whole or key.startswith(at) or ".layers." not in key}
    return _Asked(checks, _Part(needed, checks.state), [(q, answer) for q, answer in answers if answer is not None])


def _explains(mistake: Mistake, asked: _Asked, suspect: Suspect) -> bool:
    """Whether all answers are the mistake's; what they tell about it is noted down."""
    checks, rounded = asked.checks, mistake.implementation
    exact: Implementation = _Widened(type(rounded)(torch.float64))
    handle = or_none(partial(rounded.build, checks.config, asked.state, checks.dtype))
    wide = or_none(partial(exact.build, checks.config, asked.state, checks.dtype))
    for question, answer in asked.answers:
        how = question.how
        others = attempted(partial(question.ask, rounded, handle))
        if isinstance(answer, str) or not isinstance(others, Tensor):
            if answer != others:
                return False
            continue

        def exactly(question: Question = question, others: Tensor = others) -> Answers | str | None:
            again = attempted(partial(question.ask, rounded, handle))
            if not isinstance(again, Tensor) or not same_bits({"": again}, {"": others}):
                return None  # answers at random are near to anything
            wider = attempted(partial(question.ask, exact, wide))
            return {question.how: wider} if isinstance(wider, Tensor) else wider

        cost = {how: furthest(question.theirs, question.exact, checks.dtype)}
        theirs = {how: question.theirs}
        if not explains(suspect, {how: answer}, {how: others}, exactly, theirs, cost, checks.dtype):
            return False
    return True


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
