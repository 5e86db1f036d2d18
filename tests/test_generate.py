"""Greedy decoding: formula · oracle · properties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import formula, oracle
from reference.cases import Case

NEW = 12


def prompt(case: Case, length: int):
    """Rows padded on the left by different lengths."""
    return case.tokens[:3, :length], (torch.arange(length) >= torch.tensor([0, 2, 5])[:, None]).long()


@pytest.mark.parametrize("variant", ["hard", "one group", "a group a head", "tied", "rope dynamic"])
def test_gives_transformers_tokens(implementation, variant):
    case = Case(variant)
    tokens, mask = prompt(case, 9)
    ours, theirs = (
        source.generate(source.build(case.config, case.state, case.dtype), tokens, mask, NEW, use_cache=True)
        for source in (implementation, oracle)
    )
    assert torch.equal(ours, theirs)


def test_gives_the_formulas_tokens(implementation):
    case = Case()
    tokens, mask = prompt(case, 9)
    ours, exact = (
        source.generate(source.build(case.config, case.state, case.dtype), tokens, mask, NEW, use_cache=True)
        for source in (implementation, formula)
    )
    assert torch.equal(ours, exact)


@given(seed=st.integers(0, 2**16), length=st.integers(6, 30))
@settings(max_examples=10)
def test_cached_equals_uncached(implementation, seed, length):
    case = Case(seed=seed)
    handle = implementation.build(case.config, case.state, case.dtype)
    tokens, mask = prompt(case, length)
    cached, uncached = (implementation.generate(handle, tokens, mask, NEW, use_cache=c) for c in (True, False))
    assert cached.shape == (3, length + NEW)
    assert torch.equal(cached, uncached)
    assert torch.equal(cached[:, :length], tokens)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("new", [0, 1, 5])
def test_adds_exactly_as_many_as_asked_and_more_only_go_on(implementation, new, use_cache):
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    tokens, mask = prompt(case, 9)
    many = implementation.generate(handle, tokens, mask, NEW, use_cache=use_cache)
    few = implementation.generate(handle, tokens, mask, new, use_cache=use_cache)
    assert torch.equal(few, many[:, : 9 + new])
    assert few.shape == (3, 9 + new)


def test_a_padded_row_goes_on_as_it_does_alone(implementation):
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    tokens, mask = prompt(case, 9)
    together = implementation.generate(handle, tokens, mask, NEW, use_cache=True)
    for row in range(3):
        alone = implementation.generate(handle, tokens[row : row + 1, mask[row].bool()], None, NEW, use_cache=True)
        assert torch.equal(together[row, -NEW:], alone[0, -NEW:])


def test_greedy_decoding_throws_no_dice_and_writes_into_nothing(implementation):
    case = Case()
    handle = implementation.build(case.config, case.state, case.dtype)
    tokens, mask = prompt(case, 9)
    kept, state = (tokens.clone(), mask.clone()), torch.get_rng_state()
    first, again = (implementation.generate(handle, tokens, mask, NEW, use_cache=True) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tokens, kept[0])
    assert torch.equal(mask, kept[1])
