"""Properties: claims about a component that need no second implementation to be true or false.

A claim is a plain function claim(implementation, draw) that raises AssertionError where it does not hold. What it
chooses, it chooses through `draw`: under pytest hypothesis chooses (and shrinks), against the known mistakes dice do.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Draw(Protocol):
    """The source of every choice that a claim makes."""

    def integer(self, lowest: int, highest: int) -> int:
        """Both ends included."""

    def choice(self, options: Sequence[T]) -> T: ...


class Dice:
    """Reproducible choices, for a run without hypothesis."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, lowest: int, highest: int) -> int:
        return self._random.randint(lowest, highest)

    def choice(self, options: Sequence[T]) -> T:
        return self._random.choice(options)


@dataclass(frozen=True)
class Claim:
    """One property of a component; `examples` is how often it is drawn, 1 when it draws nothing."""

    component: str
    name: str
    check: Callable[[Any, Draw], None]
    examples: int

    def __str__(self) -> str:
        return self.name

    def holds(self, implementation: Any, draws: int = 5) -> bool:
        """Whether the dice find nothing against it. An implementation that breaks is one against which there is."""
        for seed in range(min(draws, self.examples)):
            try:
                self.check(implementation, Dice(seed))
            except Exception:
                return False
        return True


_CLAIMS: dict[str, list[Claim]] = {}


def claim(examples: int = 25) -> Callable[[Callable[[Any, Draw], None]], Callable[[Any, Draw], None]]:
    """Marks a function of properties/NAME.py as a claim about NAME; its name says what is claimed."""

    def marked(check: Callable[[Any, Draw], None]) -> Callable[[Any, Draw], None]:
        component = check.__module__.rpartition(".")[2]
        _CLAIMS.setdefault(component, []).append(Claim(component, check.__name__, check, examples))
        return check

    return marked


@cache
def of(component: str) -> tuple[Claim, ...]:
    """All claims about a component, in the order of its file."""
    importlib.import_module(f"llama_reference.questions.properties.{component}")
    return tuple(_CLAIMS[component])
