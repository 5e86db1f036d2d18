"""How far two answers may lie apart: the only tolerances in the project.

Two floating-point computations of one formula differ by rounding. How much is allowed is not chosen by hand: the
float64 formula is the arbiter, and an answer may be off from it by at most twice what transformers is off, plus two
units in the last place. (flash-attention's tests use the first half of this rule.)

What transformers is off is one draw of chance, however. Where a steep softmax makes a few rows of an answer decide
its error, that draw may be lucky: of 2500 answers of attention with scores near 100 (bfloat16, float16), one that
scaled_dot_product_attention gives and 26 that complex rotations give were off by more than the rule allows, by up to
twice as much; in the worst of them transformers was less off than any of 16 other ways to round. So before an answer
is called wrong that is off by no more than DOUBTFUL times what is allowed, the same question is put to
standard.random_rounding, which errs by rounding as much as transformers does, but by chance, up to CHANCES times; the
allowance is then twice the largest of all these errors, plus two units. That is the same rule, with a better estimate
of its one quantity: how far off rounding may put a correct implementation. By it the 20 worst of those answers are
off by 0.22 to 0.69 of what is allowed. (If an error came from one normally distributed number alone, one draw in
three would be off by more than twice another, and one in three hundred by more than twice the largest of nine.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llama_reference.standard.outcome import Outcome

FACTOR, ULPS = 2, 2
CHANCES, DOUBTFUL = 8, 8
# On stories260K llama2.c's logits differ from transformers' by 2.2e-5, and its two likeliest tokens by 4.2e-3 or more.
OTHER_PROGRAM = 1e-4
# How far transformers may be off the formula in float32, by component, in units in the last place: four times the most
# measured on any variant of standard.cases. It is large where angles of positions far out, rounded to float32, turn
# what a steep softmax then sharpens. Beyond it one of the two references has gone wrong, and judges nobody.
ORACLE_ULPS = {
    "rms_norm": 8,
    "rotary": 2700,
    "attention": 28000,
    "swiglu": 30,
    "block": 2300,
    "kv_cache": 1600,
    "llama": 2200,
    "loss": 4,
}


@dataclass(frozen=True)
class Verdict:
    """What became of one comparison; the errors are in units in the last place of the row's largest entry."""

    label: str
    dtype: torch.dtype
    bitwise: bool
    error: float
    oracle_error: float
    worst: str
    chance_error: float = 0.0  # the largest of rounding by chance, where that was asked

    @property
    def allowed(self) -> float:
        return FACTOR * max(self.oracle_error, self.chance_error) + ULPS

    @property
    def within(self) -> bool:
        return self.error <= self.allowed

    @property
    def outcome(self) -> Outcome:
        """BITWISE, WITHIN or WRONG."""
        if self.bitwise:
            return Outcome.BITWISE
        return Outcome.WITHIN if self.within else Outcome.WRONG

    @property
    def doubtful(self) -> bool:
        """Beyond what is allowed, but not by so much that transformers' luck cannot explain it."""
        return self.allowed < self.error <= DOUBTFUL * (FACTOR * self.oracle_error + ULPS)

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.label} ({name}): {'bitwise equal to' if self.bitwise else 'differs from'} transformers; "
            f"off the formula by {self.error:.3g} ulp, transformers by {self.oracle_error:.3g}"
            f"{f', rounding by chance by {self.chance_error:.3g}' * bool(self.chance_error)}; {self.worst}"
        )


def ulps(answer: Tensor, exact: Tensor, dtype: torch.dtype, whole: bool = False) -> Tensor:
    """The distance of every entry from the exact one, in units in the last place of its row's largest exact entry.

    whole: of the largest of all rows. So it is with gradients: where a softmax is saturated, a row of them is the small
    difference of large numbers, and its error has the size of those. Row by row transformers is off by 10 million ulps
    there, and a budget of twice that is none.
    """
    largest = exact.abs().amax() if whole else exact.abs().amax(dim=-1, keepdim=True)
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny)
    return (answer.double() - exact).abs() / (scale * torch.finfo(dtype).eps)


def judge(
    label: str, answer: Tensor, oracle: Tensor, exact: Tensor, dtype: torch.dtype, whole: bool = False
) -> Verdict:
    """The verdict on an answer of `dtype`, given transformers' and the float64 formula's, all of one shape.

    whole: errors are relative to the largest entry of all, not of the row.

    Raises ValueError when shapes differ or the reference itself is not finite: such a case says nothing.
    """
    if not answer.shape == oracle.shape == exact.shape:
        shapes = f"answer {tuple(answer.shape)}, oracle {tuple(oracle.shape)}, formula {tuple(exact.shape)}"
        raise ValueError(f"{label}: shapes differ: {shapes}")
    if not (oracle.isfinite().all() and exact.isfinite().all()):
        raise ValueError(f"{label}: void, the reference itself is not finite")
    answer, oracle = answer.detach(), oracle.detach()
    distance = ulps(answer, exact, dtype, whole).nan_to_num(nan=float("inf"))
    at = torch.unravel_index(distance.argmax(), distance.shape)
    where = tuple(int(i) for i in at)
    worst = (
        f"worst at {where}: {answer[at].item():.9g}, transformers {oracle[at].item():.9g}, exact {exact[at].item():.9g}"
    )
    return Verdict(
        label=label,
        dtype=dtype,
        bitwise=answer.dtype == oracle.dtype and torch.equal(answer, oracle),
        error=distance.max().item(),
        oracle_error=ulps(oracle, exact, dtype, whole).max().item(),
        worst=worst,
    )


def second_opinion(verdicts: list[Verdict], chance: Callable[[int], dict[str, float]]) -> list[Verdict]:
    """The verdicts, with a fairer allowance where transformers may have been lucky.

    chance: the errors by label of rounding by chance; called with 0, 1, ... as long as there is doubt. An answer that
    is beyond doubt wrong leaves none about the others of the same question.
    """
    for seed in range(CHANCES):
        if not any(v.doubtful for v in verdicts) or not all(v.within or v.doubtful for v in verdicts):
            break
        errors = chance(seed)
        verdicts = [replace(v, chance_error=max(v.chance_error, errors[v.label])) for v in verdicts]
    return verdicts


def holds(residual: float, oracle_residual: float, dtype: torch.dtype, chance: Callable[[int], float]) -> bool:
    """Whether a property whose residual would be 0 in exact arithmetic holds as well as rounding lets it hold.

    The residuals are relative to the size of what is compared. chance: that of rounding by chance, called with 0, 1,
    ... as long as there is doubt, as in second_opinion: transformers' own is one draw, and may be lucky.
    """
    unit = ULPS * torch.finfo(dtype).eps
    largest = oracle_residual
    hopeless = DOUBTFUL * (FACTOR * oracle_residual + unit)
    for seed in range(CHANCES):
        if residual <= FACTOR * largest + unit or not residual <= hopeless:
            break
        largest = max(largest, chance(seed))
    return residual <= FACTOR * largest + unit


def is_tie(logits: Tensor, exact: Tensor, one: int, other: int) -> bool:
    """Whether rounding alone may decide which of two tokens is the likelier: two answers that are both within the
    budget may differ by their exact logits' distance. logits and exact are (V,), exact of the float64 formula.
    """
    allowed = FACTOR * ulps(logits, exact, logits.dtype).max().item() + ULPS
    gap = (exact[one] - exact[other]).abs().item()
    return gap <= 2 * allowed * exact.abs().max().item() * torch.finfo(logits.dtype).eps
