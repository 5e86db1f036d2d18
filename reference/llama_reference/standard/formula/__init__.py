"""The equations in float64, as an implementation: every function of implementation, bound to weights by name.

Weights and inputs are first rounded to the dtype under test, as they would be stored, and everything after that is
exact to float64. Answers are float64 tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama_reference.implementation import Config, State
from llama_reference.standard.formula import attention as attention_formula
from llama_reference.standard.formula.arrays import Array, array, tensor
from llama_reference.standard.formula.block import block as block_formula
from llama_reference.standard.formula.llama import llama as llama_formula
from llama_reference.standard.formula.loss import loss as loss_formula
from llama_reference.standard.formula.rms_norm import rms_norm as rms_norm_formula
from llama_reference.standard.formula.rotary import rotary as rotary_formula
from llama_reference.standard.formula.sampling import sampling as sampling_formula
from llama_reference.standard.formula.swiglu import swiglu as swiglu_formula

Cache = dict[int, tuple[Array, Array]]  # layer -> keys and values so far


@dataclass(frozen=True)
class Handle:
    config: Config
    weights: dict[str, Array]

    def linear(self, name: str, x: Array) -> Array:
        y: Array = np.einsum("...i,oi->...o", x, self.weights[name + ".weight"])
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def norm(self, name: str, x: Array) -> Array:
        return rms_norm_formula(x, self.weights[name + ".weight"], self.config["rms_norm_eps"])

    def heads(self, name: str, x: Array) -> Array:
        """The projection of x (B, T, D), by heads: (B, heads, T, H)."""
        return self.linear(name, x).reshape(*x.shape[:2], -1, self.config["head_dim"]).transpose(0, 2, 1, 3)

    def attention(self, layer: int, x: Array, positions: Array, mask: Array | None, cache: Cache | None) -> Array:
        at = f"model.layers.{layer}.self_attn."
        q = self.heads(at + "q_proj", x)
        k = self.heads(at + "k_proj", x)
        v = self.heads(at + "v_proj", x)
        q = rotary_formula(q, positions, self.config)
        k = rotary_formula(k, positions, self.config)
        if cache is not None:
            if layer in cache:
                keys, values = cache[layer]
                k = np.concatenate((keys, k), axis=2)
                v = np.concatenate((values, v), axis=2)
            cache[layer] = k, v
        read = attention_formula.attention(q, k, v, attention_formula.visible(q.shape[2], k.shape[2], mask))
        return self.linear(at + "o_proj", read.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def mlp(self, layer: int, x: Array) -> Array:
        gate = partial(self.linear, f"model.layers.{layer}.mlp.gate_proj")
        up = partial(self.linear, f"model.layers.{layer}.mlp.up_proj")
        down = partial(self.linear, f"model.layers.{layer}.mlp.down_proj")
        return swiglu_formula(x, gate, up, down, self.config["hidden_act"])

    def block(self, layer: int, positions: Array, mask: Array | None, cache: Cache | None, x: Array) -> Array:
        at = f"model.layers.{layer}."
        return block_formula(
            x,
            norm1=partial(self.norm, at + "input_layernorm"),
            attention=lambda y: self.attention(layer, y, positions, mask, cache),
            norm2=partial(self.norm, at + "post_attention_layernorm"),
            mlp=partial(self.mlp, layer),
        )


def build(config: Config, state: State, dtype: torch.dtype) -> Handle:
    return Handle(config, {name: array(weight.to(dtype)) for name, weight in state.items()})


def parameters(handle: Handle) -> State:
    raise NotImplementedError("NumPy has no autograd: standard.stepwise gives the exact gradients")


def rms_norm(handle: Handle, where: str, x: Tensor) -> Tensor:
    return tensor(handle.norm(where, array(x)))


def rotary(handle: Handle, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    p = array(positions)
    return tensor(rotary_formula(array(q), p, handle.config)), tensor(rotary_formula(array(k), p, handle.config))


def attention(
    handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
) -> Tensor:
    return tensor(handle.attention(layer, array(x), array(positions), _optional(mask), cache))


def swiglu(handle: Handle, layer: int, x: Tensor) -> Tensor:
    return tensor(handle.mlp(layer, array(x)))


def block(
    handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
) -> Tensor:
    return tensor(handle.block(layer, array(positions), _optional(mask), cache, array(x)))


def llama(handle: Handle, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
    p, m, w = array(positions), _optional(mask), handle.weights
    blocks = [partial(handle.block, layer, p, m, cache) for layer in range(handle.config["num_hidden_layers"])]
    embedding = w["model.embed_tokens.weight"]
    norm = partial(handle.norm, "model.norm")
    return tensor(llama_formula(array(tokens), embedding, blocks, norm, w.get("lm_head.weight", embedding)))


def new_cache(handle: Handle, batch: int, length: int) -> Cache:
    return {}


def crop(handle: Handle, cache: Cache, length: int) -> Cache:
    return {layer: (k[:, :, :length], v[:, :, :length]) for layer, (k, v) in cache.items()} if length else {}


def reorder(handle: Handle, cache: Cache, rows: Tensor) -> Cache:
    return {layer: (k[rows.numpy()], v[rows.numpy()]) for layer, (k, v) in cache.items()}


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.tensor(loss_formula(array(logits), array(labels)), dtype=torch.float64)


def sampling(logits: Tensor, tokens: Tensor, **knobs: Any) -> Tensor:
    return tensor(sampling_formula(array(logits), array(tokens), **knobs))


def _optional(mask: Tensor | None) -> Array | None:
    return None if mask is None else array(mask)


def generate(
    handle: Handle, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
) -> Any:
    """Decode greedily, computing everything again for every token: there is no cache that could be wrong."""
    mask = torch.ones_like(tokens) if mask is None else mask
    T = tokens.shape[1]
    for _ in range(new):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        tokens = torch.cat((tokens, llama(handle, tokens, positions, mask)[:, -1:].argmax(-1)), dim=1)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
        if all(set(row) & set(stop) for row in tokens[:, T:].tolist()):
            break
    return tokens
