"""transformers' rotary embedding, the model's own, made stateless: a fresh one for every call.

Its `dynamic` type remembers the longest call so far, so that the same call gives another answer after a longer one.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb


def reset_rotary(handle: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with a rotary embedding that has seen nothing."""
    handle.model.rotary_emb = LlamaRotaryEmbedding(handle.config)
    return handle


def inverse_frequencies(config: dict[str, Any], length: int) -> tuple[Tensor, float]:
    """What a fresh embedding uses for a call whose largest position is length - 1."""
    embedding = LlamaRotaryEmbedding(LlamaConfig(**config))
    embedding(torch.zeros(1), torch.tensor([[length - 1]]))
    return embedding.inv_freq, embedding.attention_scaling


def rotary(handle: LlamaForCausalLM, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    turned: tuple[Tensor, Tensor] = apply_rotary_pos_emb(q, k, *reset_rotary(handle).model.rotary_emb(q, positions))
    return turned
