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
from llama_reference.standard.cases import VARIANTS, lacking
from llama_reference.standard.profile import DTYPES, FULL, PARTS, ROPE_TYPES, Profile

T = TypeVar("T")


class Draw(Protocol):
    """The source of every choice that a claim makes, all of them within a profile."""

    profile: Profile

    def integer(self, lowest: int, highest: int) -> int:
        """Both ends included."""

    def choice(self, options: Sequence[T]) -> T: ...


class SeededDraw:
    """Reproducible choices, for a run without hypothesis."""

    def __init__(self, seed: int, profile: Profile = FULL) -> None:
        self.profile = profile
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
    needs: tuple[str, ...] = ()
    """Features, and variants of the hard model, without which there is nothing to claim."""

    def __str__(self) -> str:
        return self.name

    def lacking(self, profile: Profile) -> str:
        """What it needs and the profile lacks; nothing where it can be asked."""
        for need in ("float32", *self.needs):
            if need in VARIANTS:
                missing = lacking(need, profile)
            elif need in DTYPES:
                missing = "" if need in profile.dtype else f"dtype {need}"
            elif need in ROPE_TYPES:
                missing = "" if need in profile.rope_type else f"rope_type {need}"
            elif need in PARTS:
                missing = "" if need in profile.parts else f"parts {need}"
            else:
                missing = "" if getattr(profile, need) else need
            if missing:
                return missing
        return ""

    def holds(self, implementation: Implementation, draws: int = 5, profile: Profile = FULL) -> bool:
        """True if no random draw within the profile refutes the claim; an exception counts as a refutation, unless it
        is a refusal.
        """
        if self.lacking(profile):
            return True
        for seed in range(min(draws, self.examples)):
            try:
                self.check(implementation, SeededDraw(seed, profile))
            except NotImplementedError:
                continue
            except Exception:
                return False
        return True


class Claims(list[Claim]):
    """The claims about one component, in the order of its file."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def claim(self, examples: int = 25, needs: tuple[str, ...] = ()) -> Callable[[Check], Check]:
        """Mark a function as a claim; its name says what is claimed."""

        def mark(check: Check) -> Check:
            self.append(Claim(self._component, check.__name__, check, examples, needs))
            return check

        return mark
