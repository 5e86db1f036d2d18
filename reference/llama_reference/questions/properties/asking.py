"""What claims share: models, numbers, and how exactly answers must agree that are equal in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, Concatenate, TypeVar

import torch
from torch import Tensor

from llama_reference.implementation import Builds, Config, Handle, State
from llama_reference.questions.properties.claims import Draw
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.cases import Case, within
from llama_reference.standard.profile import FULL, Profile
from llama_reference.standard.random_rounding import RandomRounding

Edit = Callable[[Config, State], tuple[Config, State]]
Source = TypeVar("Source")  # whatever a claim asks: the protocol of its component

# a batch that is quick to ask about: three rows, each from another offset on, two of them padded; as far as it may be
ROWS, LENGTH = 3, 12
OFFSETS, PADS = (0, 301, 40), (2, 0, 5)
LOOKING_AHEAD = ("dynamic", "longrope")  # rope_types that look at the largest position of a call


@cache
def case(variant: str = "hard", dtype: torch.dtype = torch.float32, seed: int = 0, profile: Profile = FULL) -> Case:
    """The hard model, its weights drawn once."""
    return Case(variant, dtype, seed, profile=profile)


def hard(draw: Draw) -> Case:
    """The hard model within the profile."""
    return case(profile=draw.profile)


def one_of(draw: Draw, variants: Iterable[str]) -> Case:
    """One of these variants of it, of those that are within the profile. Raises NotImplementedError without any."""
    if not (offered := within(variants, draw.profile)):
        raise NotImplementedError(f"none of {', '.join(variants)}")
    return case(draw.choice(offered), profile=draw.profile)


def steady(draw: Draw) -> Case:
    """The hard model, or another one where its rotary looks at the largest position of a call. Raises
    NotImplementedError where there is no other.
    """
    for variant in within(("hard", "rope yarn", "rope linear", "rope default"), draw.profile):
        if (of := case(variant, profile=draw.profile)).config["rope_parameters"]["rope_type"] not in LOOKING_AHEAD:
            return of
    raise NotImplementedError("every rope_type looks at the largest position of a call")


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers, always the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def rows(of: Case) -> int:
    return ROWS if of.profile.batch else 1


def positions(of: Case, length: int = LENGTH) -> Tensor:
    """(B, T): each row from its own offset on, or all from 0."""
    offsets = torch.tensor(OFFSETS if of.profile.batch else OFFSETS[1:2])
    return offsets[:, None] * of.profile.positions + torch.arange(length)


def real(of: Case, length: int = LENGTH) -> Tensor:
    """(B, T): True where there is no padding."""
    pads = torch.tensor(PADS[: rows(of)]) * of.profile.padding
    return torch.arange(length) >= pads[:, None]


def padding(of: Case, length: int = LENGTH) -> Tensor | None:
    """The mask; none where nothing can be padded."""
    return real(of, length).long() if of.profile.padding else None


def as_it_is(config: Config, state: State) -> tuple[Config, State]:
    return config, state


def fresh(source: Builds, of: Case, edit: Edit = as_it_is) -> Handle:
    """The model as the source builds it, its configuration and weights edited first."""
    config, state = edit(of.config, of.state)
    return source.build(config, state, of.dtype)


# One that is not changed may be asked again: building is most of the time that a claim takes.
built = lru_cache(maxsize=64)(fresh)


def off(answer: Tensor, exact: Tensor) -> Tensor:
    """The largest difference in a row (a vector along the last axis), over its largest entry; one number a row."""
    answer, exact = answer.double(), exact.double()
    return (answer - exact).abs().amax(-1) / exact.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny)


def must_vanish(
    residual: Callable[Concatenate[Source, ...], Tensor],
    implementation: Source,
    *choices: Any,
    dtype: torch.dtype = torch.float32,
) -> None:
    """residual(source, *choices), numbers relative to the size of what is compared, is 0 in exact arithmetic: the
    implementation's may be about as large as rounding makes it. `choices` are hashable.
    """
    __tracebackhide__ = True
    found = _largest(residual, implementation, *choices)
    theirs = _transformers(residual, *choices)
    held = budget.holds(found, theirs, dtype, lambda seed: _by_chance(residual, seed, *choices))
    assert held, f"off by {found:.3g}, transformers by {theirs:.3g}"


def _largest(residual: Callable[..., Tensor], source: Any, *choices: Any) -> float:
    return residual(source, *choices).abs().max().item()


@cache
def _transformers(residual: Callable[..., Tensor], *choices: Any) -> float:
    return _largest(residual, oracle, *choices)


@cache
def _by_chance(residual: Callable[..., Tensor], seed: int, *choices: Any) -> float:
    return _largest(residual, RandomRounding(seed), *choices)


def must_agree(
    ask: Callable[Concatenate[Source, ...], tuple[Tensor, Tensor]],
    implementation: Source,
    *choices: Any,
    dtype: torch.dtype = torch.float32,
) -> None:
    """ask(source, *choices) gives two answers that are equal in exact arithmetic. How far transformers is off the
    formula says how far each may be off; the two then lie at most twice that apart. (transformers' own two may well
    have the same bits, where another order of operations gives others.)
    """
    __tracebackhide__ = True
    one, other = ask(implementation, *choices)
    assert one.shape == other.shape
    apart = off(one, other).max().item()
    room = _room(ask, *choices)
    held = budget.holds(apart / 2, room, dtype, lambda seed: _room_by_chance(ask, seed, *choices))
    assert held, f"{apart:.3g} apart, transformers is off by {room:.3g}"


def _furthest(ask: Callable[..., tuple[Tensor, Tensor]], source: Any, *choices: Any) -> float:
    pairs = zip(ask(source, *choices), ask(formula, *choices), strict=True)
    return max(off(answer, exact).max().item() for answer, exact in pairs)


@cache
def _room(ask: Callable[..., tuple[Tensor, Tensor]], *choices: Any) -> float:
    return _furthest(ask, oracle, *choices)


@cache
def _room_by_chance(ask: Callable[..., tuple[Tensor, Tensor]], seed: int, *choices: Any) -> float:
    return _furthest(ask, RandomRounding(seed), *choices)
