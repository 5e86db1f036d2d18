"""What is known about the question of one component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_reference.implementation import Implementation
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import DTYPES, Case

Answers = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The question of one component, and on what it is asked."""

    name: str
    ask: Callable[[Implementation, Case], Answers]
    """(implementation, case) -> its answers, by label."""
    variants: tuple[str, ...]
    """Variants of the hard model, the most telling first."""
    dtypes: tuple[torch.dtype, ...] = DTYPES
    further: tuple[tuple[str, torch.dtype], ...] = ()
    """Cases that an implementation is asked in addition; a known mistake is not."""
    gradient_variants: tuple[str, ...] = ("hard",)
    """Variants that are differentiated, the most telling first."""
    telling_gradients: int = 1
    """The number of them that a known mistake is asked about."""
    no_gradients: str = ""
    """The reason why there are none."""
    not_differentiated: frozenset[str] = frozenset()
    """Labels of answers that gradients leave out (checks.gradients says why)."""
    judge: Callable[[Case, Answers, Answers], list[Verdict]] | None = None
    """(case, answers, transformers' answers) -> verdicts, where comparing numbers is not enough."""
    interchangeable: Callable[[str, Tensor], Tensor] | None = None
    """(label, answer) -> the answer in a form that is the same for equally right ones."""
