"""Block: formula · oracle · gradients · properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.cases import DTYPES, LENGTH, Case
from reference.checks.block import VARIANTS

NAME = "block"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


@given(seed=st.integers(0, 2**16), t=st.integers(1, LENGTH - 1))
def test_future_tokens_do_not_move_the_past(implementation, seed, t):
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden()
    other = x.clone()
    other[:, t:] = case.hidden(salt=1)[:, t:]
    before, after = (implementation.block(handle, 1, y, case.positions, None) for y in (x, other))
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


def test_without_its_projections_it_passes_the_residual_stream_on(implementation):
    """o_proj = down_proj = 0, biases too: both residual branches add nothing."""
    case = Case()
    state = {k: torch.zeros_like(w) if "o_proj" in k or "down_proj" in k else w for k, w in case.state.items()}
    handle = implementation.build(case.config, state, case.dtype)
    x = case.hidden()
    assert torch.equal(implementation.block(handle, 1, x, case.positions, None), x)


def test_it_leaves_its_input_alone(implementation):
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden()
    before = x.clone()
    implementation.block(handle, 1, x, case.positions, None)
    assert torch.equal(x, before)
