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
from llama_reference.report.results import ANSWERS, GRADIENTS, PROPERTIES, Results, Row
from llama_reference.standard.budget import DOUBTFUL, FACTOR, ULPS
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


BEYOND_DOUBT = "wrong beyond doubt"
ENOUGH = 12  # answers wrong beyond doubt, of one component
FEW = 20
EVERY = 6  # once there are so many, one item in so many is asked


def left_out(item: Item, results: Results) -> str:
    """Why an item need not be asked, by what is known of its component: empty where it is to be asked.

    An answer is wrong beyond doubt where no luck of transformers' could explain it (standard.budget). The sample has
    the first item of each section; a component of few items is asked them all.
    """
    every = [*items(item.component)]
    wrong = sum(row.component == item.component and is_beyond_doubt(row) for row in results.rows)
    if wrong < ENOUGH or len(every) <= FEW:
        return ""
    section = [one for one in every if one.section == item.section]
    if section.index(item) % EVERY == 0:
        return ""
    known = [why for why in results.unasked.get(item.component, {}) if why.startswith(BEYOND_DOUBT)]
    return known[0] if known else f"{BEYOND_DOUBT} after {wrong} answers"


def is_beyond_doubt(row: Row) -> bool:
    return not row.within and not row.error <= DOUBTFUL * (FACTOR * row.oracle_error + ULPS)


def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
    """The components of those names, all where none is given. Raises UsageError for an unknown name."""
    for name in names:
        if name not in COMPONENTS:
            known = f"expected one of {', '.join(COMPONENTS)}{suggestion(name, COMPONENTS)}"
            raise UsageError(f"{name!r} is not a component, {known}")
    return tuple(name for name in COMPONENTS if not names or name in names)
