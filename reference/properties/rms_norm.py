"""Claims about RMSNorm."""

from typing import Any

import torch

from reference import budget, oracle
from reference.cases import Case
from reference.properties import Draw, claim

WHERE = "model.layers.1.post_attention_layernorm"


@claim()
def rows_do_not_see_each_other(implementation: Any, draw: Draw) -> None:
    case, row = Case(seed=draw.integer(0, 2**16)), draw.integer(0, 4)
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden()
    changed = x.clone()
    changed[row] *= -7
    before, after = (implementation.rms_norm(handle, WHERE, y) for y in (x, changed))
    others = [i for i in range(len(x)) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@claim()
def scaling_large_rows_changes_nothing(implementation: Any, draw: Draw) -> None:
    """y(cx) = y(x) where eps is negligible; by powers of two the rounding is the same too."""
    case, power = Case(seed=draw.integer(0, 2**16)), draw.integer(1, 10)
    x = case.hidden(scale=1e4)

    def residual(source: Any) -> float:
        handle = source.build(case.config, case.state, case.dtype)
        small, large = source.rms_norm(handle, WHERE, x), source.rms_norm(handle, WHERE, x * 2.0**power)
        return ((large - small).abs() / small.abs().amax(-1, keepdim=True)).max().item()

    assert budget.holds(residual(implementation), residual(oracle), case.dtype)
