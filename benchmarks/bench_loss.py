"""Next-token loss: ours and transformers'."""

import pytest
import torch


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, positions):
    logits = torch.randn(*positions.shape, 4096, generator=torch.Generator().manual_seed(0))
    measure("loss", provider, lambda s, _model: s.loss(logits, positions))
