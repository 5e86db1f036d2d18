"""What is another convention and no mistake: a rotary embedding that differs from ours, and attention through it right.

Scores see the angle between a query and a key. So pairs may be laid out otherwise where the weights are, both may turn
the other way, and a factor on both may stand in the scale instead. Whoever does so is asked in its own layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config, Handle, Implementation, State, offers
from llama_reference.judge.agreement import Evidence
from llama_reference.standard.cases import Case
from llama_reference.standard.profile import FULL, Profile
from llama_reference.standard.stepwise import StepwiseLlama

Order = Callable[[int], Tensor]
THROUGH = ("attention", "block", "llama")  # what shows whether a rotary embedding is right in its place


@dataclass(frozen=True)
class Convention:
    """How a rotary embedding differs: `order` gives, of our H channels, those that stand where its own do."""

    told: str
    order: Order = torch.arange
    factor_elsewhere: bool = False


def _neighbours(H: int) -> Tensor:
    return torch.arange(H).view(2, H // 2).T.flatten()


def _exchanged(H: int) -> Tensor:
    return torch.arange(H).roll(H // 2)


NEIGHBOURS, BACKWARDS = "channel 2i is paired with 2i + 1", "queries and keys both turn by -θ, with weights to match"
CONVENTIONS = (
    Convention(f"{NEIGHBOURS}, with weights permuted to match", _neighbours),
    Convention(BACKWARDS, _exchanged),
    Convention(f"{NEIGHBOURS}, and {BACKWARDS}", lambda H: _exchanged(H)[_neighbours(H)]),
    Convention("the attention factor is part of the scale instead", factor_elsewhere=True),
)


class Translated:
    """An implementation whose rotary embedding is asked, and answers, in our layout."""

    def __init__(self, implementation: Implementation, convention: Convention) -> None:
        self._implementation = implementation
        self._convention = convention

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)

    def build(self, config: Config, state: State, dtype: torch.dtype) -> tuple[Handle, Config]:
        return self._implementation.build(config, state, dtype), config

    def parameters(self, handle: tuple[Handle, Config]) -> State:
        return self._implementation.parameters(handle[0])

    def rotary(self, handle: tuple[Handle, Config], q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        built, config = handle
        order = self._convention.order(q.shape[-1])
        q, k = self._implementation.rotary(built, q[..., order], k[..., order], positions)
        back = order.argsort()
        factor = 1.0
        if self._convention.factor_elsewhere:
            _, factor = StepwiseLlama().frequencies(config, int(positions.max()) + 1)
        return q[..., back] * factor, k[..., back] * factor


def of_rotary(implementation: Implementation, seed: int = 0, profile: Profile = FULL) -> Convention | None:
    """The convention by which its rotary embedding differs from ours; None where it does not, or is wrong."""
    wrong = _wrong(implementation, seed, profile) if offers(implementation, "rotary") else []
    if not wrong or not any(_is_right(name, implementation, wrong) for name in THROUGH if offers(implementation, name)):
        return None
    for convention in CONVENTIONS:
        translated: Any = Translated(implementation, convention)
        if not _wrong(translated, seed, profile):
            return convention
    return None


def _wrong(implementation: Implementation, seed: int, profile: Profile) -> list[Case]:
    """The questions about rotary embeddings that are answered wrongly."""
    evidence = Evidence("rotary", implementation, seed, profile)
    return [case for case in evidence.trials() if evidence.is_wrong(case)]


def _is_right(component: str, implementation: Implementation, asked: list[Case]) -> bool:
    """Whether a component that turns its queries and keys is right, wherever these are asked about."""
    evidence = Evidence(component, implementation)
    return all(evidence.answers(case) is not None and not evidence.is_wrong(case) for case in asked)
