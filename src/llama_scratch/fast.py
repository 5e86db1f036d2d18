r"""Decoding one text at the speed of memory: the same mathematics, compiled, and nothing else.

One more token needs every weight once, so its cost is at least

    bytes of weights / memory bandwidth

A matrix times one vector is a row-wise sum, y_o = Σ_i W_oi x_i. PyTorch's own product of a matrix with one row reads
memory at a quarter to a half of its speed on a CPU; the same sum, written as one and compiled by TorchInductor, at
nearly all of it. Everything of a step is compiled into one kernel, with numbers between
the weights in float32 whatever their dtype.

What is not one token of one unpadded text (the prompt, a batch) goes through the textbook model, which shares its
weights and its cache with this one. Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llama_scratch.config import LlamaConfig, Logits, Padding, Positions, Tokens
from llama_scratch.kv_cache import KVCache
from llama_scratch.llama import Llama
from llama_scratch.rotary import angles
from llama_scratch.swiglu import ACTIVATION

LENGTH_MATTERS = ("dynamic", "longrope")  # rope_types whose frequencies change as a text grows
MODELS = 256  # of other shapes, in one process: each is a compilation, and torch's own limit of 8 an error


class StaticCache(KVCache):
    """A KVCache with a tensor a layer: a compiled step writes into its inputs, which must not share memory."""

    def __init__(self, config: LlamaConfig, batch_size: int, max_length: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:  # fmt: skip
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys, self.values = (  # type: ignore[assignment]  # as rows of a tensor, without being one
            [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)] for _ in "kv"
        )
        self.length = 0
        for buffer in (*self.keys, *self.values):
            torch._dynamo.maybe_mark_dynamic(buffer, 2)  # one compilation for every length
        self.columns = torch.arange(max_length, device=device)
        self.rotation: Tensor | None = None  # cosine and sine at every position, (max_length, 2, H)
        if config.rope_parameters["rope_type"] not in LENGTH_MATTERS:
            self.rotation = angles(config, self.columns[None], torch.float32)[:, 0].transpose(0, 1).contiguous()

    def reorder(self, rows: Tensor) -> None:
        keys, values = ([x[rows] for x in buffers] for buffers in (self.keys, self.values))
        self.keys, self.values = keys, values  # type: ignore[assignment]


class FastLlama:
    """Takes the place of `model` where a text is decoded token by token; called as a Llama is.

    Weights are the model's own tensors: nothing is copied. The first single token compiles, for some ten seconds;
    TorchInductor keeps what it has compiled on disk, so that the next process spends less.
    """

    def __init__(self, model: Llama) -> None:
        self.model, self.config = model, model.config
        self.weights = [_weights(layer) for layer in model.model.layers]

    def new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        weight = self.model.lm_head.weight
        return StaticCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    @torch.no_grad()
    def __call__(self, tokens: Tokens, cache: KVCache | None = None, attention_mask: Padding | None = None,
                 positions: Positions | None = None) -> Logits:  # fmt: skip
        """As Llama.forward; compiled for one token of one text over a StaticCache, without padding, on a CPU."""
        single = tokens.shape == (1, 1) and attention_mask is None and tokens.device.type == "cpu"
        if not (single and isinstance(cache, StaticCache) and len(cache.keys[0]) == 1):
            return self.model(tokens, cache, attention_mask, positions)
        if cache.length >= len(cache.columns):
            raise ValueError(
                f"{cache.length} cached + 1 new positions exceed the cache's max_length {len(cache.columns)}"
            )
        with torch._dynamo.config.patch(recompile_limit=MODELS):
            logits = _compiled()(self._tensors(), _shape(self.config), tokens[0], self._rotation(cache, positions),
                                 _filled(cache), cache.keys, cache.values)  # fmt: skip
        cache.advance(1)
        return logits[None, None]

    def _tensors(self) -> tuple[Tensor, list[dict[str, Any]], Tensor, Tensor]:
        decoder = self.model.model
        return decoder.embed_tokens.weight, self.weights, decoder.norm.weight, self.model.lm_head.weight

    def _rotation(self, cache: StaticCache, positions: Tensor | None) -> Tensor:
        if positions is None and cache.rotation is not None:
            return cache.rotation[cache.length]
        if positions is None:
            positions = cache.columns[None, cache.length : cache.length + 1]
        return angles(self.config, positions, torch.float32)[:, 0, 0].contiguous()


def can_compile() -> bool:
    """Whether TorchInductor has a compiler for the CPU."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_step, fullgraph=True)


def _filled(cache: StaticCache) -> Tensor:
    """The positions that the step sees, its own included: a tensor, for its length is what may change."""
    filled = cache.columns[: cache.length + 1]
    torch._dynamo.mark_dynamic(filled, 0)
    return filled


def _shape(config: LlamaConfig) -> tuple[int, int, int, float, str]:
    return (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps,
            config.hidden_act)  # fmt: skip


def _weights(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    projections |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    weights: dict[str, Any] = {name: (linear.weight, linear.bias) for name, linear in projections.items()}
    return weights | {"g1": layer.input_layernorm.weight, "g2": layer.post_attention_layernorm.weight}


def _stored(x: Tensor) -> Tensor:
    """X, written to memory. TorchInductor would compute it again for every row of the product that reads it, the whole
    residual stream included (benchmarks/NOTES.md); it stores what is viewed with strides.
    """
    return x.as_strided(x.shape, x.stride())


def _product(linear: tuple[Tensor, Tensor | None], x: Tensor) -> Tensor:
    weight, bias = linear
    y = (weight.float() * x).sum(-1)
    return y if bias is None else y + bias.float()


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return _stored(gain.float() * (x * torch.rsqrt(x.pow(2).mean() + eps)))


def _turned(x: Tensor, rotation: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return _stored(x * rotation[0] + torch.cat((-second, first), dim=-1) * rotation[1])


def _step(tensors: Any, shape: Any, token: Tensor, rotation: Tensor, filled: Tensor, keys: list[Tensor],
          values: list[Tensor]) -> Tensor:  # fmt: skip
    """Logits (V,) of the token after `token` (1,), whose key and value are written into the caches."""
    embedding, layers, gain, head = tensors
    N, G, H, eps, act = shape
    at, S = filled[-1:], filled.shape[0]
    x = _stored(torch.nn.functional.embedding(token, embedding)[0].float())
    for w, k_cache, v_cache in zip(layers, keys, values, strict=True):
        y = _norm(x, w["g1"], eps)
        q = _turned(_product(w["q"], y).view(N, H), rotation)
        k_cache.index_copy_(2, at, _turned(_product(w["k"], y).view(G, H), rotation).to(k_cache.dtype)[None, :, None])
        v_cache.index_copy_(2, at, _product(w["v"], y).view(G, H).to(v_cache.dtype)[None, :, None])
        k, v = k_cache[0, :, :S].float(), v_cache[0, :, :S].float()
        scores = (q.view(G, N // G, 1, H) * k[:, None]).sum(-1) * H**-0.5
        read = (_stored(scores.softmax(-1))[..., None] * v[:, None]).sum(-2)
        x = _stored(x + _product(w["o"], _stored(read.reshape(N * H))))
        y = _norm(x, w["g2"], eps)
        x = _stored(x + _product(w["down"], _stored(ACTIVATION[act](_product(w["gate"], y)) * _product(w["up"], y))))
    return _product((head, None), _norm(x, gain, eps)).to(head.dtype)
