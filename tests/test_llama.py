"""The whole model: formula · oracle · gradients · properties."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.cases import DTYPES, LENGTH, Case
from reference.checks.llama import VARIANTS, in_chunks

NAME = "llama"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "tied", "a group a head"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


@given(seed=st.integers(0, 2**16), t=st.integers(1, LENGTH - 1))
@settings(max_examples=10)
def test_future_tokens_do_not_move_the_past(implementation, seed, t):
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    other = case.tokens.clone()
    other[:, t:] = (other[:, t:] + 1) % case.config["vocab_size"]
    before, after = (implementation.llama(handle, tokens, case.positions, None) for tokens in (case.tokens, other))
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=6))
def test_any_split_over_the_cache_equals_one_pass(implementation, within_budget, cuts):
    case = Case()
    edges = [0, *sorted(cuts), LENGTH]
    split = tuple(b - a for a, b in pairwise(edges))
    handle = implementation.build(case.config, case.state, case.dtype)
    answer = in_chunks(implementation, handle, case, split)[case.mask.bool()]
    within_budget("llama", case, "padded batch", answer)


def test_a_padded_row_answers_as_it_does_alone(implementation, within_budget):
    """Row by row without its padding: the positions are the same, so the logits are."""
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    alone = []
    for row, real in enumerate(case.mask.bool()):
        tokens, positions = case.tokens[row, real][None], case.positions[row, real][None]
        alone.append(implementation.llama(handle, tokens, positions, None)[0])
    within_budget("llama", case, "padded batch", torch.cat(alone))


def test_two_calls_give_the_same_bits(implementation):
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    first, second = (implementation.llama(handle, case.tokens, case.positions, case.mask) for _ in range(2))
    assert torch.equal(first, second)
