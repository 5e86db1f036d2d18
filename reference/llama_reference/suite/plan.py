"""What the suite asks, item by item, in the order in which a run learns most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from llama_reference.command_line import UsageError, suggestion
from llama_reference.mistakes import COMPONENTS
from llama_reference.questions import properties
from llama_reference.questions.checks import CHECKS
from llama_reference.questions.properties import Claim
from llama_reference.report.results import ANSWERS, GRADIENTS, PROPERTIES
from llama_reference.standard.cases import DTYPES


@dataclass(frozen=True)
class Item:
    """One thing to ask. `claim` is set where the section is PROPERTIES, variant and dtype where it is not."""

    component: str
    section: str
    variant: str = ""
    dtype: torch.dtype = torch.float32
    claim: Claim | None = None

    def __str__(self) -> str:
        what = str(self.claim) if self.claim else f"{self.variant}, {self.dtype}"
        return f"{self.component} {self.section}: {what}"


def answer_cases(component: str) -> list[tuple[str, torch.dtype]]:
    """The (variant, dtype) pairs that a component's answers are compared on."""
    check = CHECKS[component]
    return [*((variant, dtype) for variant in check.variants for dtype in check.dtypes), *check.further]


def gradient_cases(component: str) -> list[tuple[str, torch.dtype]]:
    """The same for gradients; none where the component has no gradient."""
    check = CHECKS[component]
    if check.no_gradients:
        return []
    return [(variant, dtype) for variant in check.gradient_variants for dtype in DTYPES]


def is_telling(variant: str, dtype: torch.dtype) -> bool:
    """True for what a quick run asks: every variant in float32, and the hard one in every dtype."""
    return dtype == torch.float32 or variant == "hard"


def items(component: str, quick: bool = False) -> Iterator[Item]:
    """Everything that is asked about a component: answers, then properties, then gradients."""
    for variant, dtype in answer_cases(component):
        if not quick or is_telling(variant, dtype):
            yield Item(component, ANSWERS, variant, dtype)
    for claim in properties.of(component):
        yield Item(component, PROPERTIES, claim=claim)
    for variant, dtype in gradient_cases(component):
        if not quick or (variant, dtype) == ("hard", torch.float32):
            yield Item(component, GRADIENTS, variant, dtype)


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The components of those names, all where none is given. Raises UsageError for an unknown name."""
    for name in names:
        if name not in COMPONENTS:
            known = f"expected one of {', '.join(COMPONENTS)}{suggestion(name, COMPONENTS)}"
            raise UsageError(f"{name!r} is not a component, {known}")
    return tuple(name for name in COMPONENTS if not names or name in names)
