"""RMSNorm, forward: ours and transformers'."""

import pytest


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, hidden):
    measure("rms_norm", provider, lambda s, model: s.rms_norm(model, "model.norm", hidden))
