"""A whole block, forward: ours and transformers'."""

import pytest


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, hidden, positions):
    measure("block", provider, lambda s, model: s.block(model, 0, hidden, positions, None))
