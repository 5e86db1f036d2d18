"""llama_scratch, behind the protocol of llama_reference.implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import llama_scratch
from llama_reference.implementation import Config, State
from llama_scratch import KVCache, Llama
from llama_scratch.checkpoint import config_file
from llama_scratch.generate.sampling import SamplingParams, next_token_probabilities
from llama_scratch.model.attention import causal_mask
from llama_scratch.model.kv_cache import LayerCache
from llama_scratch.model.loss import next_token_loss
from llama_scratch.model.rotary import angles, rotate

BITWISE = True


def build(config: Config, state: State, dtype: torch.dtype) -> Llama:
    model = Llama(config_file.from_dict(config)).to(dtype)
    head = {"lm_head.weight": state["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}
    model.load_state_dict({**state, **head}, strict=True)
    return model.eval()


def parameters(handle: Llama) -> State:
    return dict(handle.named_parameters())


def rms_norm(handle: Llama, where: str, x: Tensor) -> Tensor:
    return handle.get_submodule(where)(x)


def rotary(handle: Llama, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    rotation = angles(handle.config, positions, q.dtype)
    return rotate(q, rotation), rotate(k, rotation)


def attention(
    handle: Llama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None = None
) -> Tensor:
    with _layer_inputs(handle, layer, x, positions, mask, cache) as others:
        return handle.get_submodule(f"model.layers.{layer}.self_attn")(x, *others)


def swiglu(handle: Llama, layer: int, x: Tensor) -> Tensor:
    return handle.get_submodule(f"model.layers.{layer}.mlp")(x)


def block(
    handle: Llama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None = None
) -> Tensor:
    with _layer_inputs(handle, layer, x, positions, mask, cache) as others:
        return handle.model.layers[layer](x, *others)


@contextmanager
def _layer_inputs(
    handle: Llama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None
) -> Iterator[tuple[Tensor, Tensor, LayerCache | None]]:
    """What the model passes to each layer in addition to x; a call of one layer counts as a call of the model."""
    T = x.shape[1]
    S = T + (cache.length if cache is not None else 0)
    rotation = angles(handle.config, positions, x.dtype)
    yield rotation, causal_mask(T, S, mask, x.device), [*cache][layer] if cache is not None else None
    if cache is not None:
        cache.advance(T)


def llama(
    handle: Llama, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None = None
) -> Tensor:
    return handle(tokens, cache, mask, positions)


def new_cache(handle: Llama, batch: int, length: int) -> KVCache:
    return KVCache(handle.config, batch, length, handle.lm_head.weight.dtype)


def crop(_handle: Llama, cache: KVCache, length: int) -> KVCache:
    cache.crop(length) if length else cache.reset()
    return cache


def reorder(_handle: Llama, cache: KVCache, rows: Tensor) -> KVCache:
    cache.reorder(rows)
    return cache


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return next_token_loss(logits, labels)


def sampling(logits: Tensor, tokens: Tensor, **knobs: Any) -> Tensor:
    return next_token_probabilities(logits, tokens, SamplingParams(**knobs))


def generate(
    handle: Llama, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
) -> Tensor:
    return llama_scratch.generate(
        handle, tokens, new, use_cache=use_cache, attention_mask=mask, stop_ids=stop, fast=False
    )
