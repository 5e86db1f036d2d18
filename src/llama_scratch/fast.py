r"""Decoding at the speed of memory: the same mathematics, compiled, and nothing else.

One more token needs every weight once, so its cost is at least

    bytes of weights / memory bandwidth

A matrix times one vector is a row-wise sum, y_o = Σ_i W_oi x_i. PyTorch's own product of a matrix with one row reads
memory at a quarter to a half of its speed on a CPU; the same sum, written as one and compiled by TorchInductor, at
nearly all of it. The whole step is compiled into one kernel, which reads the weights where the model keeps them, query,
key and value in one loop, gate and up in another; numbers between the weights are float32 whatever their dtype.

A prompt goes through the textbook model with PyTorch's fused attention, in chunks. On other devices than a CPU, without
a compiler, and in float64, where float32 between the weights would lose digits, the textbook model decodes as it is.
Williams et al. 2009, "Roofline".
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scratch.attention import Attention
from llama_scratch.config import LlamaConfig, Logits, Padding, Positions, Tokens
from llama_scratch.kv_cache import KVCache
from llama_scratch.llama import Llama, next_positions
from llama_scratch.rotary import angles
from llama_scratch.swiglu import ACTIVATION

LENGTH_MATTERS = ("dynamic", "longrope")  # rope_types whose frequencies change as a text grows
CHUNK = 512  # tokens of a prompt at once: scores of T × S would else grow with the square of its length
BYTES_PER_SECOND = 15e9  # at which the textbook reads weights, one text at a time: 11 to 18 on the machines of NOTES.md
SAVED = 2 / 3  # of that time
SECONDS_A_LAYER = 1.0  # of compiling: 0.4 to 1.2 when TorchInductor meets the model for the first time

log = logging.getLogger("llama_scratch")
compiled: dict[object, float] = {}  # what this process has compiled, in how many seconds


class StaticCache(KVCache):
    """A KVCache with a tensor a layer: a compiled step writes into its inputs, which must not share memory."""

    def __init__(self, config: LlamaConfig, batch_size: int, max_length: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:  # fmt: skip
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys, self.values = (  # type: ignore[assignment]  # as rows of a tensor, without being one
            [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)] for _ in "kv"
        )
        self.length = 0
        for buffer in (*self.keys, *self.values):  # one compilation for every length, and for every batch of 2 or more
            torch._dynamo.maybe_mark_dynamic(buffer, [0, 2] if batch_size > 1 else 2)
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
        self.kind = _kind(model)
        self.weights = [_weights(layer) for layer in model.model.layers]

    def new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        weight = self.model.lm_head.weight
        return StaticCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    @torch.no_grad()
    def __call__(self, tokens: Tokens, cache: KVCache | None = None, attention_mask: Padding | None = None,
                 positions: Positions | None = None, last_only: bool = False) -> Logits:  # fmt: skip
        """As Llama.forward. Compiled for single tokens after others in a StaticCache."""
        if not isinstance(cache, StaticCache):
            return self.model(tokens, cache, attention_mask, positions, last_only)
        if tokens.shape[1] == 1 and cache.length > 0:
            return self._next(tokens, cache, attention_mask, positions)
        chunks, start = [], cache.length
        with _fused_attention(self.model):
            for i in range(0, tokens.shape[1], CHUNK):
                mask = None if attention_mask is None else attention_mask[:, : start + i + CHUNK]
                at = None if positions is None else positions[:, i : i + CHUNK]
                chunks.append(self.model(tokens[:, i : i + CHUNK], cache, mask, at, last_only))
        return chunks[-1] if last_only else torch.cat(chunks, dim=1)

    def _next(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        B, S = len(tokens), cache.length + 1
        if len(cache.columns) < S:
            raise ValueError(f"{S - 1} cached + 1 new positions exceed the cache's max_length {len(cache.columns)}")
        if attention_mask is not None and attention_mask.shape != (B, S):
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {B, S}: (batch, cached + new)")
        if attention_mask is not None and positions is None:
            positions = next_positions(1, S, attention_mask, tokens.device)
        mask = None if attention_mask is None else attention_mask.bool()
        inputs = tokens[:, 0], self._rotation(cache, B, positions), cache.columns[:S], mask
        _any_size(*inputs)
        decoder = self.model.model
        tensors = decoder.embed_tokens.weight, self.weights, decoder.norm.weight, self.model.lm_head.weight
        kind = *self.kind, B > 1, mask is not None
        with _timed(kind):
            logits = _compiled(kind)(tensors, _shape(self.config), *inputs, cache.keys, cache.values)
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


def pays_from(model: Llama, batch: int = 1, padded: bool = False) -> int:
    """From how many new tokens on compiling the step is expected to save more time than it takes."""
    if (*_kind(model), batch > 1, padded) in compiled:
        return 1
    step = [*model.model.layers.parameters(), model.lm_head.weight]
    saved = sum(p.numel() * p.element_size() for p in step) / BYTES_PER_SECOND * SAVED
    return int(SECONDS_A_LAYER * len(model.model.layers) / saved) + 1


def for_decoding(model: Llama, fast: bool | None, new_tokens: int, batch: int, padded: bool) -> Llama | FastLlama:
    """The model, or what is faster: as asked, or (None) where that is expected to pay. The choice goes to the log."""
    if fast is False:
        return model
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype == torch.float64 or not can_compile():
        found = f"{weight.dtype} on {weight.device}" if can_compile() else "there is no g++ or clang++"
        log.log(logging.WARNING if fast else logging.INFO, "decoding without compiling: %s", found)
        return model
    needed = pays_from(model, batch, padded)
    if fast is None and new_tokens < needed:
        log.info("decoding without compiling, which is expected to pay from %s new tokens on", f"{needed:,}")
        return model
    return FastLlama(model)


@contextmanager
def _fused_attention(model: Llama) -> Iterator[None]:
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    before = [attention.sdpa for attention in attentions]
    try:
        for attention in attentions:
            attention.sdpa = True
        yield
    finally:
        for attention, sdpa in zip(attentions, before, strict=True):
            attention.sdpa = sdpa


@contextmanager
def _timed(kind: object) -> Iterator[None]:
    """Says how long the first step of its kind took, which compiles."""
    if kind in compiled:
        yield
        return
    log.info("compiling the step of one token")
    started = time.perf_counter()
    yield
    compiled[kind] = time.perf_counter() - started
    log.info("compiled in %.1f s", compiled[kind])


def _kind(model: Llama) -> tuple[str, torch.dtype]:
    return repr(model.config), model.lm_head.weight.dtype


@cache
def _compiled(kind: object) -> Callable[..., Tensor]:  # noqa: ARG001  the key of its cache
    """The step, compiled for one kind of model and call. Each kind has a function of its own: torch counts compilations
    by their code, and refuses the ninth.
    """
    step = FunctionType(_step.__code__.replace(co_name=f"_step_{len(compiled)}"), _step.__globals__)
    return torch.compile(step, fullgraph=True)


def _any_size(tokens: Tensor, rotation: Tensor, filled: Tensor, mask: Tensor | None) -> None:
    """Tells the compiler which sizes differ from call to call."""
    torch._dynamo.mark_dynamic(filled, 0)
    if mask is not None:
        torch._dynamo.maybe_mark_dynamic(mask, 1)
    if len(tokens) > 1:
        for x in (tokens, rotation) if mask is None else (tokens, rotation, mask):
            torch._dynamo.maybe_mark_dynamic(x, 0)


def _shape(config: LlamaConfig) -> tuple[float, str]:
    return config.rms_norm_eps, config.hidden_act


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
    """Heads (B, n, H) turned by (B, 2, H). Halves change places by an index, not by a copy: one loop does it all."""
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


def attention(
    w: dict[str, Any], x: Tensor, rotation: Tensor, filled: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor
) -> Tensor:
    """(B, D) -> (B, D); keys and values (B, G, room, H) are one layer's cache, written at the last filled position."""
    at, S, H = filled[-1:], filled.shape[0], keys.shape[-1]
    q, k, v = (product(w[name], x).unflatten(-1, (-1, H)) for name in "qkv")
    keys.index_copy_(2, at, turned(k, rotation).to(keys.dtype)[:, :, None])
    values.index_copy_(2, at, v.to(values.dtype)[:, :, None])
    return product(w["o"], attend(turned(q, rotation), keys[:, :, :S], values[:, :, :S], mask))


def swiglu(w: dict[str, Any], x: Tensor, act: str) -> Tensor:
    return product(w["down"], stored(ACTIVATION[act](product(w["gate"], x)) * product(w["up"], x)))


def block(w: dict[str, Any], x: Tensor, shape: tuple[float, str], *surroundings: Any) -> Tensor:
    """(B, D) -> (B, D); surroundings as in `attention`, from rotation on."""
    eps, act = shape
    x = stored(x + attention(w, norm(x, w["g1"], eps), *surroundings))
    return stored(x + swiglu(w, norm(x, w["g2"], eps), act))


def _step(tensors: Any, shape: tuple[float, str], tokens: Tensor, rotation: Tensor, filled: Tensor,
          mask: Tensor | None, keys: list[Tensor], values: list[Tensor]) -> Tensor:  # fmt: skip
    """Logits (B, V) of the tokens after `tokens` (B,), whose keys and values are written into the caches. `filled`: the
    positions that it sees, its own included; a tensor, for its length is what changes.
    """
    embedding, layers, gain, head = tensors
    x = stored(F.embedding(tokens, embedding).float())
    for w, k_cache, v_cache in zip(layers, keys, values, strict=True):
        x = block(w, x, shape, rotation, filled, mask, k_cache, v_cache)
    return product((head, None), norm(x, gain, shape[0])).to(head.dtype)
