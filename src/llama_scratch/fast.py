r"""Decoding at the speed of memory: the same mathematics, compiled, and nothing else.

One more token needs every weight once, so its cost is at least

    bytes of weights / memory bandwidth

A matrix times one vector is a row-wise sum, y_o = Σ_i W_oi x_i. PyTorch's own product of a matrix with one row reads
memory at a quarter to a half of its speed on a CPU; the same sum, written as one and compiled by TorchInductor, at
nearly all of it. The whole step is compiled into one kernel, which reads the weights where the model keeps them, query,
key and value in one loop, gate and up in another; numbers between the weights are float32 whatever their dtype.

A prompt goes through the textbook model with PyTorch's fused attention, in chunks. What this file has no faster way for
(other devices, other caches) goes through the textbook model as it is. Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scratch.config import LlamaConfig, Logits, Padding, Positions, Tokens
from llama_scratch.kv_cache import KVCache
from llama_scratch.llama import Llama, next_positions
from llama_scratch.rotary import angles
from llama_scratch.swiglu import ACTIVATION

LENGTH_MATTERS = ("dynamic", "longrope")  # rope_types whose frequencies change as a text grows
MODELS = 256  # of other shapes, in one process: each is a compilation, and torch's own limit of 8 an error
CHUNK = 512  # tokens of a prompt at once: scores of T × S would else grow with the square of its length


class StaticCache(KVCache):
    """A KVCache with a tensor a layer: a compiled step writes into its inputs, which must not share memory."""

    def __init__(self, config: LlamaConfig, batch_size: int, max_length: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:  # fmt: skip
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys, self.values = (  # type: ignore[assignment]  # as rows of a tensor, without being one
            [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)] for _ in "kv"
        )
        self.length = 0
        self.columns = torch.arange(max_length, device=device)
        self.rotation: Tensor | None = None  # of every position, (max_length, 2, H)
        if config.rope_parameters["rope_type"] not in LENGTH_MATTERS:
            self.rotation = signed(angles(config, self.columns[:, None], torch.float32))

    def reorder(self, rows: Tensor) -> None:
        keys, values = ([x[rows] for x in buffers] for buffers in (self.keys, self.values))
        self.keys, self.values = keys, values  # type: ignore[assignment]


class FastLlama:
    """Takes the place of `model` where text is decoded token by token; called as a Llama is.

    Weights are the model's own tensors: nothing is copied. The first single token compiles, for about a second a layer;
    one text and several (2 or more) are two compilations, a growing length is none. TorchInductor keeps what it has
    compiled on disk, so that the next process spends less.
    """

    def __init__(self, model: Llama) -> None:
        self.model, self.config = model, model.config
        self.weights = [_weights(layer) for layer in model.model.layers]
        self.prompt_model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
        for layer in self.prompt_model.model.layers:
            layer.self_attn.sdpa = True

    def new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        weight = self.model.lm_head.weight
        return StaticCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    @torch.no_grad()
    def __call__(self, tokens: Tokens, cache: KVCache | None = None, attention_mask: Padding | None = None,
                 positions: Positions | None = None) -> Logits:  # fmt: skip
        """As Llama.forward. Compiled for single tokens after others in a StaticCache, on a CPU."""
        if not isinstance(cache, StaticCache):
            return self.model(tokens, cache, attention_mask, positions)
        if tokens.shape[1] == 1 and cache.length > 0 and tokens.device.type == "cpu":
            return self._next(tokens, cache, attention_mask, positions)
        logits, start = [], cache.length
        for i in range(0, tokens.shape[1], CHUNK):
            mask = None if attention_mask is None else attention_mask[:, : start + i + CHUNK]
            at = None if positions is None else positions[:, i : i + CHUNK]
            logits.append(self.prompt_model(tokens[:, i : i + CHUNK], cache, mask, at))
        return torch.cat(logits, dim=1)

    def _next(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        B, S = len(tokens), cache.length + 1
        if S > len(cache.columns):
            raise ValueError(f"{S - 1} cached + 1 new positions exceed the cache's max_length {len(cache.columns)}")
        if attention_mask is not None and attention_mask.shape != (B, S):
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {B, S}: (batch, cached + new)")
        if attention_mask is not None and positions is None:
            positions = next_positions(1, S, attention_mask, tokens.device)
        mask = None if attention_mask is None else attention_mask.bool()
        inputs = tokens[:, 0], self._rotation(cache, B, positions), cache.columns[:S], mask
        _any_size(inputs, cache)
        decoder, shape = self.model.model, _shape(self.config)
        tensors = decoder.embed_tokens.weight, self.weights, decoder.norm.weight, self.model.lm_head.weight
        with torch._dynamo.config.patch(recompile_limit=MODELS):
            logits = _compiled()(tensors, shape, *inputs, cache.keys, cache.values)
        cache.advance(1)
        return logits[:, None]

    def _rotation(self, cache: StaticCache, batch: int, positions: Tensor | None) -> Tensor:
        if positions is None and cache.rotation is not None:
            return cache.rotation[cache.length].expand(batch, -1, -1).contiguous()
        if positions is None:
            positions = cache.columns[None, cache.length : cache.length + 1]
        return signed(angles(self.config, positions.expand(batch, 1), torch.float32))


def can_compile() -> bool:
    """Whether TorchInductor has a compiler for the CPU."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_step, fullgraph=True)


def _any_size(inputs: Any, cache: StaticCache) -> None:
    """One compilation for every length, and for every batch but one text: what may differ between calls is said."""
    tokens, rotation, filled, mask = inputs
    buffers = (*cache.keys, *cache.values)
    torch._dynamo.mark_dynamic(filled, 0)
    for buffer in buffers:
        torch._dynamo.maybe_mark_dynamic(buffer, 2)
    if mask is not None:
        torch._dynamo.maybe_mark_dynamic(mask, 1)
    if len(tokens) > 1:
        for x in (tokens, rotation, *buffers, *([mask] if mask is not None else [])):
            torch._dynamo.maybe_mark_dynamic(x, 0)


def _shape(config: LlamaConfig) -> tuple[int, float, str]:
    return config.head_dim, config.rms_norm_eps, config.hidden_act


def _weights(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    projections |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    weights: dict[str, Any] = {name: (linear.weight, linear.bias) for name, linear in projections.items()}
    return weights | {"g1": layer.input_layernorm.weight, "g2": layer.post_attention_layernorm.weight}


def signed(rotation: Tensor) -> Tensor:
    """`angles` of one position a row, (2, B, 1, H) -> (B, 2, H), the first half of each sine negated: see `turned`."""
    cos, sin = rotation[:, :, 0]
    first, second = sin.chunk(2, dim=-1)
    return torch.stack((cos, torch.cat((-first, second), dim=-1)), dim=1)


def stored(x: Tensor) -> Tensor:
    """X, written to memory. TorchInductor would compute it again for every row of the product that reads it, the whole
    residual stream included (benchmarks/NOTES.md); it stores what is viewed with strides.
    """
    return x.as_strided(x.shape, x.stride())


def product(linear: tuple[Tensor, Tensor | None], x: Tensor) -> Tensor:
    """(B, I) -> (B, O): row-wise sums for one text; for several, PyTorch's product, written the way it is faster."""
    weight, bias = linear
    if len(x) == 1:
        y = (weight.float() * x).sum(-1)[None]
    elif weight.dtype == torch.float32:
        y = (weight @ x.T).T
    else:
        y = F.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y + bias.float()


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return stored(gain.float() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)))


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """Heads (B, n, H) turned by (B, 2, H). Halves change places by an index, not by a copy, so that one loop does all."""
    halves = x.unflatten(-1, (2, -1))
    cos, sin = rotation.unflatten(-1, (2, -1))[:, :, None].unbind(1)
    return stored((halves * cos + halves.flip(-2) * sin).flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What each query (B, N, H) reads of (B, G, S, H), where mask (B, S) lets it: (B, N·H)."""
    B, G, _, H = k.shape
    scores = (q.view(B, G, -1, 1, H) * k[:, :, None].float()).sum(-1) * H**-0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], torch.finfo(torch.float32).min)
    weights = stored((scores - scores.amax(-1, keepdim=True)).exp())
    read = (weights[..., None] * v[:, :, None].float()).sum(-2) / weights.sum(-1, keepdim=True)
    return stored(read.reshape(B, -1))


def swiglu(w: dict[str, Any], x: Tensor, act: str) -> Tensor:
    return product(w["down"], stored(ACTIVATION[act](product(w["gate"], x)) * product(w["up"], x)))


def _step(tensors: Any, shape: Any, tokens: Tensor, rotation: Tensor, filled: Tensor, mask: Tensor | None,
          keys: list[Tensor], values: list[Tensor]) -> Tensor:  # fmt: skip
    """Logits (B, V) of the tokens after `tokens` (B,), whose keys and values are written into the caches. `filled`: the
    positions that it sees, its own included; a tensor, for its length is what changes.
    """
    embedding, layers, gain, head = tensors
    H, eps, act = shape
    at, S = filled[-1:], filled.shape[0]
    x = stored(F.embedding(tokens, embedding).float())
    for w, k_cache, v_cache in zip(layers, keys, values, strict=True):
        y = norm(x, w["g1"], eps)
        q, k, v = (product(w[name], y).unflatten(-1, (-1, H)) for name in "qkv")
        k_cache.index_copy_(2, at, turned(k, rotation).to(k_cache.dtype)[:, :, None])
        v_cache.index_copy_(2, at, v.to(v_cache.dtype)[:, :, None])
        read = attend(turned(q, rotation), k_cache[:, :, :S], v_cache[:, :, :S], mask)
        x = stored(x + product(w["o"], read))
        x = stored(x + swiglu(w, norm(x, w["g2"], eps), act))
    return product((head, None), norm(x, gain, eps)).to(head.dtype)
