"""Two mistakes in one implementation, and a mistake in one place alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FunctionType
from typing import Any

from llama_reference.mistakes.mistake import Mistake
from llama_reference.standard.stepwise import StepwiseLlama

# By component: parts of the names of its weights, each of which is a place of its own in the source.
PLACES = {"rms_norm": ("input_layernorm", "post_attention_layernorm", "model.norm")}


def in_one_place(mistake: Mistake) -> Iterator[Mistake]:
    """The mistake in one of its component's places alone. None where all of them are one."""
    made = type(mistake.implementation)
    for place in PLACES.get(mistake.component, ()):

        def rms_norm(self: Any, handle: Any, where: str, x: Any, place: str = place) -> Any:
            return (made if place in where else StepwiseLlama)(self.wide).rms_norm(handle, where, x)

        only = type(f"{made.__name__}_in_{place}", (StepwiseLlama,), {"rms_norm": rms_norm})
        yield replace(mistake, why=f"{mistake.why}; in {place} alone", implementation=only(), ways=())


def both(one: Mistake, other: Mistake) -> Iterator[Mistake]:
    """Every way in which two mistakes can be made at once. None, where each replaces the same step with its own."""
    classes = type(one.implementation), type(other.implementation)
    orders = (classes, classes[::-1]) if _steps(classes[0]).keys() & _steps(classes[1]).keys() else (classes,)
    for upper, lower in orders:
        if joined := _over(upper, lower):
            yield replace(
                one,
                name=f"{one.name} and {other.name}",
                why=f"{one.why}; and {other.why}",
                seen=", ".join(dict.fromkeys((one.seen, other.seen))),
                implementation=joined(),
                ways=(),
                parts=(one, other),
            )


def _over(upper: type[StepwiseLlama], lower: type[StepwiseLlama]) -> type[StepwiseLlama] | None:
    """`upper` made from `lower` instead of the right one: where a step of it falls back on the right step, it falls
    back on lower's. None where a step that both replace does not fall back.
    """
    steps = _steps(upper)
    if not all(_falls_back(step, name) for name, step in steps.items() if name in _steps(lower)):
        return None
    return type(f"{upper.__name__}_over_{lower.__name__}", (lower,), {k: _rebound(f, lower) for k, f in steps.items()})


def _steps(made: type[StepwiseLlama]) -> dict[str, FunctionType]:
    """Every step that differs from the right one."""
    return {
        name: getattr(made, name)
        for name, right in vars(StepwiseLlama).items()
        if isinstance(right, FunctionType) and name != "__init__" and getattr(made, name) is not right
    }


def _falls_back(step: FunctionType, name: str) -> bool:
    names = step.__code__.co_names
    return "StepwiseLlama" in names and name in names


def _rebound(step: FunctionType, lower: type[StepwiseLlama]) -> Callable[..., Any]:
    """The step with another class for the one whose right steps it calls."""
    known = step.__globals__ | {StepwiseLlama.__name__: lower}
    rebound = FunctionType(step.__code__, known, step.__name__, step.__defaults__, step.__closure__)
    rebound.__kwdefaults__ = step.__kwdefaults__
    return rebound
