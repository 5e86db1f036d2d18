"""Greedy tokens behind a padded batch of prompts, with the cache and without."""

from typing import Any

import torch
from torch import Tensor

from reference.cases import Case

VARIANTS = ("hard", "one group", "tied")
PADDING = (2, 0, 5)
LENGTH, NEW = 9, 12


def ask(implementation: Any, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    tokens = case.tokens[: len(PADDING), :LENGTH]
    mask = (torch.arange(LENGTH) >= torch.tensor(PADDING)[:, None]).long()
    return {
        "cached": implementation.generate(handle, tokens, mask, NEW, use_cache=True),
        "uncached": implementation.generate(handle, tokens, mask, NEW, use_cache=False),
        "no padding": implementation.generate(handle, tokens, None, NEW, use_cache=True),
    }
