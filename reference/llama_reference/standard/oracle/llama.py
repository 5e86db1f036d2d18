"""transformers' whole model.

Built in the dtype (calling .to(bfloat16) on a float32 model would round its rotary frequencies, and the reference with
them), with eager attention, and always called with an explicit mask (without one, positions that jump are taken for
packed sequences) and with use_cache saying whether there is a cache (by default transformers makes one).
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM

from llama_reference.implementation import Config, State
from llama_reference.standard.oracle.attention import CACHE
from llama_reference.standard.oracle.rotary import reset_rotary


def build(config: Config, state: State, dtype: torch.dtype) -> LlamaForCausalLM:
    hf_config = LlamaConfig(**copy.deepcopy(config))  # transformers mutates what it is given
    handle = LlamaForCausalLM._from_config(hf_config, dtype=dtype, attn_implementation="eager")
    head = {"lm_head.weight": state["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}
    handle.load_state_dict({**state, **head}, strict=True)
    return handle.eval()


def parameters(handle: LlamaForCausalLM) -> State:
    return dict(handle.named_parameters())


def new_cache(handle: LlamaForCausalLM, batch: int, length: int) -> Cache:
    return DynamicCache(config=handle.config)


def crop(handle: LlamaForCausalLM, cache: Cache, length: int) -> Cache:
    """By layer: transformers counts what is to go, and a layer that was called alone holds more than the others."""
    if length == 0:
        return DynamicCache(config=handle.config)  # a cropped one would keep its batch size
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.crop(min(length - layer.get_seq_length(), 0))
    return cache


def reorder(handle: LlamaForCausalLM, cache: Cache, rows: Tensor) -> Cache:
    cache.reorder_cache(rows.long())  # type: ignore[arg-type]
    return cache


def llama(
    handle: LlamaForCausalLM, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
) -> Tensor:
    filled = cache.get_seq_length() if cache is not None else 0
    real = torch.ones(tokens.shape[0], filled + tokens.shape[1], dtype=torch.long) if mask is None else mask
    kept: dict[str, Any] = {CACHE: cache, "use_cache": cache is not None}
    answer = reset_rotary(handle)(tokens, attention_mask=real, position_ids=positions, **kept)
    logits: Tensor = answer.logits
    return logits
