"""What a question asks, call by call, by putting it to transformers; and which entries of the answers it compares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llama_reference.exchange.calls import ByCalls, Call, perform
from llama_reference.questions.checks import CHECKS
from llama_reference.standard import oracle
from llama_reference.standard.cases import Case

Output = tuple[str, str]  # the key of a call, and which of its outputs
TAGS = 1 << 20  # from here on: no number of a tag is a token


@dataclass
class Recorded:
    """Every call of a question once, in its order; transformers' answers and what is compared of them, by key."""

    calls: dict[tuple[str, int], Call] = field(default_factory=dict)  # those over a cache as often as they were made
    answers: dict[Output, Tensor] = field(default_factory=dict)
    labels: dict[Output, tuple[list[str], Tensor]] = field(default_factory=dict)  # see `compared`


class Recorder(ByCalls):
    """Another implementation, and what it is asked."""

    def __init__(self, implementation: Any, recorded: Recorded) -> None:
        self._implementation, self.recorded = implementation, recorded
        self._handles: dict[str, Any] = {}
        self._caches: dict[Any, Any] = {}
        self._times: Counter[str] = Counter()

    def answer(self, call: Call) -> tuple[Tensor, ...]:
        handle = self._handle(call)
        found = perform(self._implementation, call, handle, self._caches.get(call.cache))
        self.recorded.calls.setdefault((call.key, self._times[call.key]), call)
        self._times[call.key] += call.cache is not None  # equal calls over two caches are two
        if not call.outputs:
            self._caches[call.cache] = found
            return ()
        answers = found if isinstance(found, tuple) else (found,)
        for output, answer in zip(call.outputs, answers, strict=True):
            self.recorded.answers.setdefault((call.key, output), answer)
        return answers

    def _handle(self, call: Call) -> Any:
        if (model := call.model) is None:
            return None
        if model.key not in self._handles:
            self._handles[model.key] = self._implementation.build(model.config, model.state, model.dtype)
        return self._handles[model.key]


class _Tags(ByCalls):
    """Answers in which every entry has a number of its own: so the answers of a question show what it compares."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.first: dict[Output, int] = {}
        self.end = TAGS

    def answer(self, call: Call) -> tuple[Tensor, ...]:
        return tuple(self._tagged((call.key, output)) for output in call.outputs)

    def _tagged(self, output: Output) -> Tensor:
        theirs = self._recorded.answers[output]
        first = self.first.setdefault(output, self.end)
        self.end = max(self.end, first + theirs.numel())
        kind = torch.float64 if theirs.is_floating_point() else torch.long
        return torch.arange(first, first + theirs.numel(), dtype=kind).reshape(theirs.shape)


@torch.no_grad()
def record(component: str, case: Case) -> Recorded:
    """The question of a component, also as it is put to a Llama whose parts do not answer alone."""
    recorded = Recorded()
    for asked in (case, alone(case)):
        CHECKS[component].ask(Recorder(oracle, recorded), asked)  # type: ignore[arg-type]
    compared(recorded, component, case)
    compared(recorded, component, alone(case))
    return recorded


def alone(case: Case) -> Case:
    """The case as it is asked where no part answers."""
    return replace(case, profile=replace(case.profile, parts=()))


def compared(recorded: Recorded, component: str, case: Case) -> None:
    """Note of every answer that is compared the labels of the question, and of every entry which, -1 for none."""
    asked = _Tags(recorded)
    answers = CHECKS[component].ask(asked, case)  # type: ignore[arg-type]
    labels = list(answers)
    which = torch.full((asked.end - TAGS,), -1)
    for number, answer in enumerate(answers.values()):
        which[answer.flatten().long() - TAGS] = number
    for output, first in asked.first.items():
        those = which[first - TAGS :][: recorded.answers[output].numel()]
        if (those >= 0).any():
            recorded.labels.setdefault(output, (labels, those))
