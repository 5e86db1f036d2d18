"""The two orders of the rows of W_q and W_k.

Rotary rotates channels 2i and 2i + 1 of a head in Meta's files (interleaved), i and i + H/2 in Hugging Face's
(half-split). Converting permutes the rows within each of the N and G heads. GGUF and llama2.c store Meta's order.
"""

from __future__ import annotations

from torch import Tensor

from llama_scratch.checkpoint.weight_files import Weight
from llama_scratch.model.config import LlamaConfig


def to_half_split(key: str, weight: Weight, config: LlamaConfig) -> Weight:
    """Return the weight with its rows in Hugging Face's order if rotary acts on them, else unchanged."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None or weight.shape[0] != heads * config.head_dim:  # a wrong shape is reported elsewhere
        return weight
    return Weight(
        weight.path, weight.name, weight.shape, weight.dtype, lambda: interleaved_to_half_split(weight.read(), heads)
    )


def interleaved_to_half_split(weight: Tensor, heads: int) -> Tensor:
    """Move row 2i + j of each head to row i + jH/2."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
