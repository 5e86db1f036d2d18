"""Rotary embedding: formula · oracle · gradients · properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reference import budget, oracle
from reference.cases import DTYPES, Case
from reference.checks.rotary import VARIANTS

NAME = "rotary"
# the types whose factor on cosine and sine is 1, so that turning keeps lengths
PLAIN = ["hard", "rope default", "rope theta_500000", "rope linear"]

seeds, positions = st.integers(0, 2**16), st.integers(0, 2000)


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


def query_and_key(case: Case) -> tuple[Tensor, Tensor]:
    """One position each, in every head."""
    config = case.config
    shapes = ((1, config[heads], 1, config["head_dim"]) for heads in ("num_attention_heads", "num_key_value_heads"))
    q, k = (case.normal(*shape, salt=salt) for salt, shape in enumerate(shapes))
    return q, k


def turn(source, handle, q: Tensor, k: Tensor, m: int, n: int) -> tuple[Tensor, Tensor]:
    """Q turned to position m, k to position n."""
    at_m, at_n = (source.rotary(handle, q, k, torch.tensor([[p]])) for p in (m, n))
    return at_m[0], at_n[1]


def must_hold(implementation, case: Case, residual) -> None:
    """residual(source, handle) is 0 in exact arithmetic: ours may be about as large as transformers'."""
    __tracebackhide__ = True
    ours, theirs = (
        residual(source, source.build(case.config, case.state, case.dtype)) for source in (implementation, oracle)
    )
    assert budget.holds(ours, theirs, case.dtype), f"off by {ours:.3g}, transformers by {theirs:.3g}"


@pytest.mark.parametrize("variant", PLAIN)
class TestProperties:
    @given(seed=seeds, m=positions, n=positions, shift=positions)
    def test_scores_depend_on_the_distance_only(self, implementation, variant, seed, m, n, shift):
        case = Case(variant, seed=seed)
        q, k = query_and_key(case)

        def residual(source, handle):
            scores = []
            for s in (0, shift):
                turned_q, turned_k = turn(source, handle, q, k, m + s, n + s)
                scores.append((turned_q[:, :2] * turned_k).sum(-1))
            size = (q[:, :2].norm(dim=-1) * k.norm(dim=-1)).max()
            return ((scores[0] - scores[1]).abs() / size).max().item()

        must_hold(implementation, case, residual)

    @given(seed=seeds, m=positions)
    def test_lengths_are_kept(self, implementation, variant, seed, m):
        case = Case(variant, seed=seed)
        q, k = query_and_key(case)

        def residual(source, handle):
            pairs = zip((q, k), turn(source, handle, q, k, m, m), strict=True)
            return max((after.norm(dim=-1) / before.norm(dim=-1) - 1).abs().max().item() for before, after in pairs)

        must_hold(implementation, case, residual)

    @given(seed=seeds, m=positions, n=positions)
    def test_turns_add_up(self, implementation, variant, seed, m, n):
        case = Case(variant, seed=seed)
        q, k = query_and_key(case)

        def residual(source, handle):
            once, _ = turn(source, handle, q, k, m + n, 0)
            twice, _ = turn(source, handle, turn(source, handle, q, k, m, 0)[0], k, n, 0)
            return ((once - twice).abs().amax() / q.abs().amax()).item()

        must_hold(implementation, case, residual)

    def test_position_0_turns_nothing(self, implementation, variant):
        case = Case(variant)
        q, k = query_and_key(case)
        handle = implementation.build(case.config, case.state, case.dtype)
        turned_q, turned_k = turn(implementation, handle, q, k, 0, 0)
        assert torch.equal(turned_q, q)
        assert torch.equal(turned_k, k)


def test_two_thetas_live_in_one_process(implementation):
    """A table of angles that is kept somewhere must be kept by theta too."""
    answers = []
    for variant in ("rope default", "rope theta_500000", "rope default"):
        case = Case(variant)
        handle = implementation.build(case.config, case.state, case.dtype)
        answers.append(turn(implementation, handle, *query_and_key(case), 100, 100)[0])
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])
