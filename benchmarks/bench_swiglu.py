"""SwiGLU, forward: ours and transformers'."""

import pytest


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, hidden):
    measure("swiglu", provider, lambda s, model: s.swiglu(model, 0, hidden))
