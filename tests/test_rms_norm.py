"""RMSNorm: formula · oracle · gradients · properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import budget, oracle
from reference.cases import DTYPES, Case
from reference.checks.rms_norm import VARIANTS

NAME = "rms_norm"
WHERE = "model.layers.1.post_attention_layernorm"


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


@given(seed=st.integers(0, 2**16), row=st.integers(0, 4))
def test_rows_do_not_see_each_other(implementation, seed, row):
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden()
    changed = x.clone()
    changed[row] *= -7
    before, after = (implementation.rms_norm(handle, WHERE, y) for y in (x, changed))
    others = [i for i in range(len(x)) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@given(seed=st.integers(0, 2**16), power=st.integers(1, 10))
def test_scaling_large_rows_changes_nothing(implementation, seed, power):
    """y(cx) = y(x) where eps is negligible; by powers of two the rounding is the same too."""
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    x = case.hidden(scale=1e4)

    def residual(source, handle):
        small, large = source.rms_norm(handle, WHERE, x), source.rms_norm(handle, WHERE, x * 2.0**power)
        return ((large - small).abs() / small.abs().amax(-1, keepdim=True)).max().item()

    theirs = residual(oracle, oracle.build(case.config, case.state, case.dtype))
    assert budget.holds(residual(implementation, handle), theirs, case.dtype)
