"""Attention: formula · oracle · gradients · properties."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.cases import DTYPES, LENGTH, Case
from reference.checks.attention import VARIANTS, in_chunks

NAME = "attention"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "one group"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


def attention(implementation, case: Case, x, mask):
    handle = implementation.build(case.config, case.state, case.dtype)
    return implementation.attention(handle, 1, x, case.positions, mask)


@given(seed=st.integers(0, 2**16), t=st.integers(1, LENGTH - 1))
def test_future_tokens_do_not_move_the_past(implementation, seed, t):
    case = Case(seed=seed)
    x = case.hidden()
    other = x.clone()
    other[:, t:] = case.hidden(salt=1)[:, t:]
    before, after = (attention(implementation, case, y, None) for y in (x, other))
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@given(seed=st.integers(0, 2**16))
def test_what_padding_holds_is_irrelevant(implementation, seed):
    case = Case(seed=seed)
    real = case.mask.bool()
    x = case.hidden()
    other = torch.where(real[..., None], x, case.hidden(salt=1))
    before, after = (attention(implementation, case, y, case.mask)[real] for y in (x, other))
    assert torch.equal(before, after)


def test_padding_on_the_right_is_seen_by_nobody(implementation):
    case = Case()
    mask = case.mask.flip(1)
    x = case.hidden()
    other = torch.where(mask.bool()[..., None], x, case.hidden(salt=1))
    before, after = (attention(implementation, case, y, mask)[mask.bool()] for y in (x, other))
    assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_with_nothing_to_see_stay_finite(implementation, dtype):
    """One masked key alone has a score of any size: in float16 the lowest number plus that overflows."""
    case = Case(dtype=dtype)
    handle = implementation.build(case.config, case.state, case.dtype)
    for T in (1, 2, LENGTH):
        x, positions, mask = case.hidden(8.0)[:, :T], case.positions[:, :T], torch.zeros_like(case.mask[:, :T])
        assert implementation.attention(handle, 1, x, positions, mask).isfinite().all()


def test_every_head_reads_the_group_it_belongs_to(implementation, within_budget):
    """Heads 0 to R - 1 read group 0: giving each head a group of its own, R times the same, changes nothing."""
    case = Case()
    config, H = case.config, case.config["head_dim"]
    R = config["num_attention_heads"] // config["num_key_value_heads"]
    state = {
        name: w.unflatten(0, (-1, H)).repeat_interleave(R, 0).flatten(0, 1)
        if "k_proj" in name or "v_proj" in name
        else w
        for name, w in case.state.items()
    }
    handle = implementation.build(config | {"num_key_value_heads": config["num_attention_heads"]}, state, case.dtype)
    answer = implementation.attention(handle, 0, case.hidden(), case.positions, case.mask)[case.mask.bool()]
    within_budget("attention", case, "layer 0 at scale 1", answer)


@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=6))
def test_any_split_over_the_cache_equals_one_pass(implementation, within_budget, cuts):
    case = Case()
    edges = [0, *sorted(cuts), LENGTH]
    split = tuple(b - a for a, b in pairwise(edges))
    handle = implementation.build(case.config, case.state, case.dtype)
    answer = in_chunks(implementation, handle, case, split)[case.mask.bool()]
    within_budget("attention", case, "layer 0 at scale 1", answer)
