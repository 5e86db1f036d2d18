"""Attention, forward: ours and transformers'."""

import pytest


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, hidden, positions):
    measure("attention", provider, lambda s, model: s.attention(model, 0, hidden, positions, None))
