"""Properties: claims about a component that need no second implementation to be true or false.

A claim is a plain function claim(implementation, draw) that raises AssertionError where it does not hold. What it
chooses, it chooses through `draw`: under pytest hypothesis chooses (and shrinks), against the known mistakes a seeded
random generator does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from llama_reference.implementation import Implementation

T = TypeVar("T")


class Draw(Protocol):
    """The source of every choice that a claim makes."""

    def integer(self, lowest: int, highest: int) -> int:
        """Both ends included."""

    def choice(self, options: Sequence[T]) -> T: ...


class SeededDraw:
    """Reproducible choices, for a run without hypothesis."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, lowest: int, highest: int) -> int:
        return self._random.randint(lowest, highest)

    def choice(self, options: Sequence[T]) -> T:
        return self._random.choice(options)


Check = Callable[[Any, Draw], None]


@dataclass(frozen=True)
class Claim:
    """One property of a component; `examples` is how often it is drawn, 1 when it draws nothing."""

    component: str
    name: str
    check: Check
    examples: int

    def __str__(self) -> str:
        return self.name

    def holds(self, implementation: Implementation, draws: int = 5) -> bool:
        """True if no random draw refutes the claim; an exception counts as a refutation."""
        for seed in range(min(draws, self.examples)):
            try:
                self.check(implementation, SeededDraw(seed))
            except Exception:
                return False
        return True


class Claims(list[Claim]):
    """The claims about one component, in the order of its file."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def claim(self, examples: int = 25) -> Callable[[Check], Check]:
        """Mark a function as a claim; its name says what is claimed."""

        def mark(check: Check) -> Check:
            self.append(Claim(self._component, check.__name__, check, examples))
            return check

        return mark
