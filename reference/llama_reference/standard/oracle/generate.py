"""transformers' generate: greedy, told everything that it would otherwise guess (mask, length, when to stop)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM

from llama_reference.standard.oracle.rotary import reset_rotary


def generate(
    handle: LlamaForCausalLM, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
) -> Tensor:
    settings = GenerationConfig(do_sample=False, max_new_tokens=new, use_cache=use_cache, pad_token_id=0)
    real = torch.ones_like(tokens) if mask is None else mask
    stop_ids = list(stop) or None  # None: not even those of the configuration
    ids: Any = reset_rotary(handle).generate(
        tokens, attention_mask=real, generation_config=settings, eos_token_id=stop_ids
    )
    return ids
