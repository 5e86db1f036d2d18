"""Mistakes with a number in them: one for every number, which the diagnosis finds from the answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from llama_reference.mistakes.mistake import Mistake, Steps, with_steps


@dataclass(frozen=True)
class Numbers:
    """Which numbers a family is tried with first, and whether those between them are possible too."""

    grid: tuple[float, ...]
    between: str = ""
    """The scale on which numbers between those of the grid are looked for, "log" or "linear"; none where empty."""


def ratios(lowest: float, highest: float, steps: int) -> Numbers:
    """Positive numbers, as many between 1 and 2 as between 2 and 4."""
    stride = math.log(highest / lowest) / steps
    return Numbers(tuple(lowest * math.exp(i * stride) for i in range(steps + 1)), "log")


def between(lowest: float, highest: float, steps: int) -> Numbers:
    """Numbers of either sign."""
    return Numbers(tuple(lowest + (highest - lowest) * i / steps for i in range(steps + 1)), "linear")


def whole(lowest: int, highest: int) -> Numbers:
    """Whole numbers, both ends included, the smallest first whatever their sign."""
    return Numbers(tuple(sorted(map(float, range(lowest, highest + 1)), key=abs)))


@dataclass(frozen=True)
class Family:
    """Wrong versions of one component that differ by a number."""

    component: str
    name: str
    why: str
    """With {n} where the number stands."""
    numbers: Numbers
    steps: Callable[[float], Steps]
    """The steps of StepwiseLlama that a number replaces."""
    seen: str = "own"

    def at(self, number: float) -> Mistake:
        """The mistake with this number."""
        why = self.why.format(n=f"{number:.6g}")
        implementation = with_steps(self.name, self.steps(number))
        return Mistake(self.component, self.name, why, self.seen, implementation, number=number)
