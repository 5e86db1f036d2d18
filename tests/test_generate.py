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
