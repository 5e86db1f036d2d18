"""Queries and keys turned, angles included: ours and transformers'."""

import pytest
import torch


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, positions):
    q = torch.randn(*positions.shape, 8, 64).transpose(1, 2)
    k = torch.randn(*positions.shape, 2, 64).transpose(1, 2)
    measure("rotary", provider, lambda s, model: torch.cat(s.rotary(model, q, k, positions), dim=1))
