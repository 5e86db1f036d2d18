"""Known mistakes, executable: each is reference.plain.Plain with one step done wrong.

`why` says what is done instead of what, `seen` where that was reported or found ("own": thought of, no public source).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from reference.plain import Plain

COMPONENTS = ("rms_norm", "rotary", "attention", "swiglu", "block", "kv_cache", "llama", "loss", "sampling", "generate")


@dataclass(frozen=True)
class Mistake:
    """A wrong version of one component."""

    component: str
    name: str
    why: str
    seen: str
    implementation: Any


def mistake(name: str, why: str, seen: str = "own", **steps: Callable[..., Any]) -> tuple[str, str, str, Any]:
    """A mistake whose `steps` replace methods of Plain."""
    assert all(hasattr(Plain, step) for step in steps), f"{name} replaces a step that Plain does not have"
    return name, why, seen, type(name, (Plain,), steps)()


@cache
def of(component: str) -> tuple[Mistake, ...]:
    """All known mistakes of a component."""
    listed = importlib.import_module(f"reference.mistakes.{component}").MISTAKES
    return tuple(Mistake(component, *entry) for entry in listed)
