"""Which inputs an answer depends on, and which it should: each is changed in turn, and what moves is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llama_reference.implementation import Implementation
from llama_reference.standard.cases import LENGTH, Case
from llama_reference.standard.stepwise import StepwiseLlama

CHANGED = (5, 20, 37)  # positions whose input is changed
MOVED, KEPT = 2.0**-10, 2.0**-22  # of the largest entry: to move, and to stay; nothing is said of what is between

# Projections whose zeros silence a branch of a block, or both.
BRANCHES = {
    "attention adds nothing": ("o_proj",),
    "the feed-forward adds nothing": ("down_proj",),
    "neither branch adds anything": ("o_proj", "down_proj"),
}
SAME = 2.0**-18  # of the largest entry, in float32: as far as another order of operations may lead

Call = Callable[[Tensor], Tensor]


def dependence(component: str, implementation: Implementation, case: Case) -> list[str]:
    """What the answers of one call depend on and should not, or should and do not, in words."""
    if component not in ("rms_norm", "attention", "swiglu", "block", "llama"):
        return []
    try:
        with torch.no_grad():
            theirs = _moves(component, implementation, case)
            right = _moves(component, StepwiseLlama(), case)
            apart = _channels(implementation, case) if component == "rms_norm" else []
    except Exception:  # whatever a foreign implementation raises: it is said elsewhere
        return []
    return [*_rows(theirs), *_positions(theirs, right), *apart]


def _moves(component: str, implementation: Implementation, case: Case) -> dict[tuple[int, int], Tensor]:
    """By changed row and position: how far each position of each row moves, (B, T)."""
    call, x = _call(component, implementation, case)
    before = call(x).double()
    moved = {}
    for row, position in [(0, position) for position in CHANGED] + [(case.rows - 1, CHANGED[0])]:
        other = x.clone()
        other[row, position] = (
            (x[row, position] + 1) % case.config["vocab_size"] if component == "llama" else -x[row, position]
        )
        change = (call(other).double() - before).abs().amax(-1)
        moved[row, position] = change / before.abs().amax(-1).clamp(min=1e-30)
    return moved


def _channels(implementation: Implementation, case: Case) -> list[str]:
    """Channels that do not move with the first one, or with the last: all should."""
    call, x = _call("rms_norm", implementation, case)
    before = call(x).double()
    for changed in (0, x.shape[-1] - 1):
        other = x.clone()
        other[..., changed] = 8 * x[..., changed]
        still = ((call(other).double() - before).abs().amax((0, 1)) == 0).nonzero().flatten().tolist()
        if still:
            return [f"channels {still[0]} to {still[-1]} do not depend on channel {changed}"] * (
                len(still) == still[-1] - still[0] + 1
            )
    return []


def _call(component: str, implementation: Implementation, case: Case) -> tuple[Call, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    positions = torch.arange(LENGTH).expand(case.rows, -1)
    calls: dict[str, Call] = {
        "rms_norm": lambda x: implementation.rms_norm(handle, "model.norm", x),
        "attention": lambda x: implementation.attention(handle, 0, x, positions, None),
        "swiglu": lambda x: implementation.swiglu(handle, 0, x),
        "block": lambda x: implementation.block(handle, 0, x, positions, None),
        "llama": lambda x: implementation.llama(handle, x, positions, None),
    }
    return calls[component], case.tokens if component == "llama" else case.hidden()


def _rows(theirs: dict[tuple[int, int], Tensor]) -> Iterator[str]:
    for (row, _), moved in theirs.items():
        if bool((moved[torch.arange(len(moved)) != row] > MOVED).any()):
            yield "a row of the batch depends on another"
            return


def _positions(theirs: dict[tuple[int, int], Tensor], right: dict[tuple[int, int], Tensor]) -> Iterator[str]:
    """Distances, in positions, at which an answer depends on an input and should not, or the reverse."""
    too_many: set[int] = set()
    missing: set[int] = set()
    for (row, position), moved in theirs.items():
        expected = right[row, position][row]
        here = moved[row]
        too_many |= {t - position for t in range(LENGTH) if here[t] > MOVED and expected[t] == 0}
        missing |= {t - position for t in range(LENGTH) if here[t] <= KEPT and expected[t] > MOVED}
    ahead = sorted(-d for d in too_many if d < 0)
    behind = sorted(d for d in too_many if d > 0)
    if ahead:
        yield f"an answer depends on inputs up to {ahead[-1]} positions after its own"
    if behind:
        yield f"an answer depends on inputs up to {behind[-1]} positions before its own"
    if missing:
        far = min(missing)
        yield (
            "an answer does not depend on its own input"
            if far == 0
            else (f"an answer does not depend on some inputs {far} or more positions before its own")
        )


def branches(implementation: Implementation, case: Case) -> list[str]:
    """Whether a block is right where one of its branches is silent, or both; in words."""
    if case.dtype != torch.float32:
        return []
    try:
        with torch.no_grad():
            answers = {words: _silenced(implementation, case, parts) for words, parts in BRANCHES.items()}
            expected = {words: _silenced(StepwiseLlama(), case, parts) for words, parts in BRANCHES.items()}
    except Exception:  # whatever a foreign implementation raises: it is said elsewhere
        return []
    right = [words for words in BRANCHES if _apart(answers[words], expected[words]) <= SAME]
    if right:
        return ["right where " + " or ".join(right[:2])]
    both = "neither branch adds anything"
    times = (answers[both] * expected[both]).sum() / expected[both].pow(2).sum()
    told = f"where {both}, the answer is {times.item():.5g} times what it should be"
    return [told] if _apart(answers[both], times * expected[both]) <= SAME else []


def _silenced(implementation: Implementation, case: Case, parts: tuple[str, ...]) -> Tensor:
    silent = {
        key: torch.zeros_like(w) if any(f".{part}." in key for part in parts) else w for key, w in case.state.items()
    }
    handle = implementation.build(case.config, silent, case.dtype)
    return implementation.block(handle, 0, case.hidden(), torch.arange(LENGTH).expand(case.rows, -1), None).double()


def _apart(answer: Tensor, expected: Tensor) -> float:
    return ((answer - expected).abs().max() / expected.abs().max()).item()
