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
    real = torch.ones_like(tokens) if mask is None else mask
    # The model's own settings, since what an argument leaves out is taken from there: None here, and nothing stops it.
    handle.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=new, use_cache=use_cache, pad_token_id=0, eos_token_id=list(stop) or None
    )
    ids: Any = reset_rotary(handle).generate(tokens, attention_mask=real)
    return ids
