"""Queries and keys turned, angles included: ours and transformers'."""

import pytest
import torch


@pytest.mark.parametrize("provider", ["ours", "transformers"])
def test_forward(measure, provider, positions):
    q, k = (torch.randn(*positions.shape, heads, 64).transpose(1, 2) for heads in (8, 2))
    measure("rotary", provider, lambda s, model: torch.cat(s.rotary(model, q, k, positions), dim=1))
