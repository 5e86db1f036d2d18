"""SwiGLU: formula · oracle · gradients · properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.cases import DTYPES, Case
from reference.checks.swiglu import VARIANTS

NAME = "swiglu"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "gelu"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


@given(seed=st.integers(0, 2**16), row=st.integers(0, 4))
def test_rows_do_not_see_each_other(implementation, seed, row):
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden()
    changed = x.clone()
    changed[row] *= -7
    before, after = (implementation.swiglu(handle, 1, y) for y in (x, changed))
    others = [i for i in range(len(x)) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


def test_a_closed_gate_lets_only_the_bias_through(implementation):
    """With W_gate and its bias 0 the gate is φ(0) = 0, so that y = b_down; up alone opens nothing."""
    case = Case()
    state = {k: torch.zeros_like(w) if "gate_proj" in k else w for k, w in case.state.items()}
    handle = implementation.build(case.config, state, case.dtype)
    y = implementation.swiglu(handle, 1, case.hidden())
    assert torch.equal(y, case.state["model.layers.1.mlp.down_proj.bias"].expand_as(y))
