"""Known mistakes, executable: each is llama_reference.standard.stepwise.StepwiseLlama with one step done wrong.

`why` says what is done instead of what, `seen` where that was reported or found ("own": thought of, no public source).
`ways` are variants of the mistake, for programs whose correct code is arranged differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llama_reference.standard.stepwise import StepwiseLlama

Steps = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Mistake:
    """A wrong version of one component."""

    component: str
    name: str
    why: str
    seen: str
    implementation: StepwiseLlama
    ways: tuple[StepwiseLlama, ...] = ()
    parts: tuple[Mistake, ...] = ()
    """Of two mistakes at once: which."""
    number: float | None = None
    """Of a family's member: its number."""

    @property
    def forms(self) -> tuple[Mistake, ...]:
        """The mistake in every form."""
        return (self, *(replace(self, implementation=way, ways=()) for way in self.ways))


def mistake(
    name: str, why: str, seen: str = "own", ways: Iterable[Steps] = (), **steps: Callable[..., Any]
) -> tuple[str, str, str, StepwiseLlama, tuple[StepwiseLlama, ...]]:
    """A mistake whose `steps` replace methods of StepwiseLlama; other `ways` replace others."""
    others = tuple(with_steps(name, form) for form in ways)
    return name, why, seen, with_steps(name, steps), others


def wide(x: Tensor) -> Tensor:
    """At least float32: what is exact stays so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def with_steps(name: str, steps: Steps) -> StepwiseLlama:
    """StepwiseLlama with other steps."""
    assert all(hasattr(StepwiseLlama, step) for step in steps), (
        f"{name} replaces a step that StepwiseLlama does not have"
    )
    wrong: type[StepwiseLlama] = type(name, (StepwiseLlama,), dict(steps))
    return wrong()
