"""The whole model, forward: ours and transformers'."""

import pytest


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, positions):
    measure("llama", provider, lambda s, model: s.llama(model, positions, positions, None))
