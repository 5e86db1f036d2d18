"""transformers' eager attention, the model's own."""

from inspect import signature

import torch
from torch import Tensor
from transformers import Cache, LlamaForCausalLM
from transformers.masking_utils import create_causal_mask

from llama_reference.standard.oracle.rotary import reset_rotary

# transformers 5.24 renamed the argument, and warns of the old name
CACHE = "cache" if "cache" in signature(LlamaForCausalLM.forward).parameters else "past_key_values"


def layer_inputs(
    handle: LlamaForCausalLM, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None
) -> dict[str, object]:
    """What transformers' model passes to each layer in addition to x."""
    filled = cache.get_seq_length(layer) if cache is not None else 0
    real = torch.ones(x.shape[0], filled + x.shape[1], dtype=torch.long) if mask is None else mask
    seen = create_causal_mask(handle.config, x, real, cache, positions, layer_idx=layer)
    rotation = reset_rotary(handle).model.rotary_emb(x, positions)
    return {"position_embeddings": rotation, "attention_mask": seen, CACHE: cache}


def attention(
    handle: LlamaForCausalLM, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
) -> Tensor:
    read: Tensor = handle.model.layers[layer].self_attn(x, **layer_inputs(handle, layer, x, positions, mask, cache))[0]
    return read
