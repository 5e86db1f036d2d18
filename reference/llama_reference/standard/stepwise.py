"""A Llama in plain torch, every step a method: what the mistakes are mistakes of.

Its answers have transformers' bits (it is an implementation like any other, held to the same questions), so a mistake
that overrides one step differs from the standard in that step alone. With `wide=torch.float64` nothing is rounded on
the way, and autograd through it gives the exact gradients that the NumPy formula cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import Config, State


@dataclass(frozen=True)
class Handle:
    """A built model: its configuration, and its tensors under their HF names."""

    config: Config
    weights: State

    def __getitem__(self, key: str) -> Tensor:
        return self.weights[key]


@dataclass
class Cache:
    """Buffers for `room` positions of every layer, and how many are filled."""

    room: int
    filled: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


class StepwiseLlama:
    """An implementation; a mistake is a subclass that overrides a step."""

    def __init__(self, wide: torch.dtype = torch.float32) -> None:
        self.wide = wide

    # building

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Handle:
        held = torch.float64 if self.wide == torch.float64 else dtype  # rounded as it would be stored, in either case
        return Handle(config, {key: w.to(dtype).to(held).clone().requires_grad_() for key, w in state.items()})

    def parameters(self, handle: Handle) -> State:
        return handle.weights

    # rms_norm

    def eps(self, config: Config) -> float:
        return float(config["rms_norm_eps"])

    def normalise(self, x: Tensor, eps: float) -> Tensor:
        x = x.to(self.wide)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return gain * self.normalise(x, eps).to(x.dtype)

    def rms_norm(self, handle: Handle, where: str, x: Tensor) -> Tensor:
        return self.norm(x, handle[where + ".weight"], self.eps(handle.config))

    # rotary

    def theta(self, config: Config) -> Any:
        return config["rope_parameters"]["rope_theta"]

    def rotary_channels(self, config: Config) -> int:
        return int(config["head_dim"])

    def periods(self, base: Any, channels: int) -> Tensor:
        return base ** (torch.arange(0, channels, 2, dtype=self.wide) / channels)

    def frequencies(self, config: Config, length: int) -> tuple[Tensor, float]:
        """Inverse frequencies and the factor on cosine and sine, by rope_type."""
        rope = config["rope_parameters"]
        H = self.rotary_channels(config)
        base = self.theta(config)
        kind = rope["rope_type"]
        if kind == "dynamic":
            base = self.dynamic_base(base, rope["factor"], length, config["max_position_embeddings"], H)
        periods = self.periods(base, H)
        if kind == "linear":
            return self.linear_scaling(1.0 / periods, rope["factor"]), 1.0
        if kind == "llama3":
            return self.llama3(1.0 / periods, rope), 1.0
        if kind == "longrope":
            return self.longrope(periods, rope, length)
        if kind == "yarn":
            return self.yarn(periods, rope, base)
        return 1.0 / periods, 1.0

    def linear_scaling(self, inverse: Tensor, factor: float) -> Tensor:
        return inverse / factor

    def dynamic_base(self, base: float, factor: float, length: int, trained: int, H: int) -> Any:
        reached: Any = torch.tensor(length, dtype=self.wide) if length > trained else trained
        return base * (factor * reached / trained - (factor - 1)) ** (H / (H - 2))

    def llama3(self, inverse: Tensor, rope: Config) -> Tensor:
        factor = rope["factor"]
        low = rope["low_freq_factor"]
        high = rope["high_freq_factor"]
        trained = rope["original_max_position_embeddings"]
        wavelength = 2 * math.pi / inverse
        kept = (trained / wavelength - low) / (high - low)
        between = (1 - kept) * inverse / factor + kept * inverse
        stretched = torch.where(wavelength > trained / low, inverse / factor, between)
        return torch.where(wavelength < trained / high, inverse, stretched)

    def longrope(self, periods: Tensor, rope: Config, length: int) -> tuple[Tensor, float]:
        trained = rope["original_max_position_embeddings"]
        factors = torch.tensor(rope["long_factor" if length > trained else "short_factor"], dtype=self.wide)
        return 1.0 / (factors * periods), math.sqrt(1 + math.log(rope["factor"]) / math.log(trained))

    def yarn_edges(self, rope: Config, base: float, H: int) -> tuple[float, float]:
        trained = rope["original_max_position_embeddings"]
        first = H * math.log(trained / (64 * math.pi)) / (2 * math.log(base))
        last = H * math.log(trained / (2 * math.pi)) / (2 * math.log(base))
        return max(math.floor(first), 0), min(math.ceil(last), H - 1)

    def yarn_factor(self, rope: Config) -> float:
        return 0.1 * math.log(rope["factor"]) + 1.0

    def yarn(self, periods: Tensor, rope: Config, base: float) -> tuple[Tensor, float]:
        first, last = self.yarn_edges(rope, base, 2 * len(periods))
        kept = 1 - ((torch.arange(len(periods), dtype=self.wide) - first) / (last - first)).clamp(0, 1)
        return 1.0 / (rope["factor"] * periods) * (1 - kept) + 1.0 / periods * kept, self.yarn_factor(rope)

    def angles(self, config: Config, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, T, H) of every angle."""
        inverse, factor = self.frequencies(config, int(positions.max()) + 1)
        half = positions[..., None].to(self.wide) * inverse
        both = torch.cat((half, half), dim=-1)
        return (both.cos() * factor).to(dtype), (both.sin() * factor).to(dtype)

    def rotate_half(self, x: Tensor) -> Tensor:
        """What the sine multiplies: the other channel of each pair, one of them negated."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat((-second, first), dim=-1)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return x * cos[:, None] + self.rotate_half(x) * sin[:, None]

    def rotary(self, handle: Handle, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.angles(handle.config, positions, q.dtype)
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)

    # attention

    def linear(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        return F.linear(x, handle[name + ".weight"], handle.weights.get(name + ".bias"))

    def project(self, handle: Handle, at: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, N, T, H), k and v (B, G, T, H)."""
        H = handle.config["head_dim"]
        q = self.split(self.linear(handle, at + "q_proj", x), H)
        k = self.split(self.linear(handle, at + "k_proj", x), H)
        v = self.split(self.linear(handle, at + "v_proj", x), H)
        return q, k, v

    def split(self, x: Tensor, H: int) -> Tensor:
        return x.unflatten(-1, (-1, H)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def causal(self, T: int, S: int) -> Tensor:
        """(T, S): True where a query may look."""
        columns = torch.arange(S)
        return columns <= columns[S - T :, None]

    def visible(self, T: int, S: int, mask: Tensor | None) -> Tensor:
        """(B or 1, 1, T, S)."""
        causal = self.causal(T, S)[None, None]
        return causal if mask is None else causal & self.padding(mask)[:, None, None]

    def padding(self, mask: Tensor) -> Tensor:
        return mask.bool()

    def scale(self, config: Config) -> float:
        return float(config["head_dim"] ** -0.5)

    def share(self, x: Tensor, R: int) -> Tensor:
        return x if R == 1 else x[:, :, None].expand(-1, -1, R, -1, -1).flatten(1, 2)

    def softmax(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1, dtype=self.wide).to(scores.dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R = q.shape[1] // k.shape[1]
        k, v = self.share(k, R), self.share(v, R)
        lowest = torch.finfo(q.dtype).min
        scores = (q @ k.transpose(-2, -1) * scale + (~seen).to(q.dtype) * lowest).clamp(min=lowest)
        return self.softmax(scores) @ v

    def attention_step(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        at = f"model.layers.{layer}.self_attn."
        q, k, v = self.project(handle, at, x)
        q, k = self.rotary(handle, q, k, positions)
        if cache is not None:
            k, v = self.append(cache, layer, k, v)
        read = self.attend(q, k, v, self.visible(q.shape[2], k.shape[2], mask), self.scale(handle.config))
        return self.linear(handle, at + "o_proj", self.merge(read))

    def attention(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        y = self.attention_step(handle, layer, x, positions, mask, cache)
        if cache is not None:
            self.advance(cache, x.shape[1])
        return y

    # kv_cache

    def new_cache(self, handle: Handle, batch: int, length: int) -> Cache:
        return Cache(length)

    def append(self, cache: Cache, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes behind what is filled; returns everything up to and with it."""
        for store, new in ((cache.keys, k), (cache.values, v)):
            if layer not in store:
                store[layer] = new.new_zeros(*new.shape[:2], cache.room, new.shape[3])
            store[layer] = store[layer].detach()
            self.write(store[layer], cache.filled, new)
        end = cache.filled + k.shape[2]
        return cache.keys[layer][:, :, :end], cache.values[layer][:, :, :end]

    def write(self, store: Tensor, start: int, new: Tensor) -> None:
        store[:, :, start : start + new.shape[2]] = new.detach()

    def advance(self, cache: Cache, T: int) -> None:
        cache.filled += T

    def crop(self, handle: Handle, cache: Cache, length: int) -> Cache:
        cache.filled = length
        return cache

    def reorder(self, handle: Handle, cache: Cache, rows: Tensor) -> Cache:
        for store in (cache.keys, cache.values):
            for layer, kept in store.items():
                store[layer] = kept[rows]
        return cache

    # swiglu

    def activation(self, config: Config, z: Tensor) -> Tensor:
        name = config["hidden_act"]
        if name == "gelu_pytorch_tanh":
            return F.gelu(z, approximate="tanh")
        named: dict[str, Any] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
        return named[name](z)

    def gate(self, config: Config, gate: Tensor, up: Tensor) -> Tensor:
        return self.activation(config, gate) * up

    def swiglu(self, handle: Handle, layer: int, x: Tensor) -> Tensor:
        at = f"model.layers.{layer}.mlp."
        gated = self.gate(
            handle.config, self.linear(handle, at + "gate_proj", x), self.linear(handle, at + "up_proj", x)
        )
        return self.linear(handle, at + "down_proj", gated)

    # block

    def block_step(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        at = f"model.layers.{layer}."
        normed = self.rms_norm(handle, at + "input_layernorm", x)
        h = x + self.attention_step(handle, layer, normed, positions, mask, cache)
        return h + self.swiglu(handle, layer, self.rms_norm(handle, at + "post_attention_layernorm", h))

    def block(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        y = self.block_step(handle, layer, x, positions, mask, cache)
        if cache is not None:
            self.advance(cache, x.shape[1])
        return y

    # llama

    def layers(self, config: Config) -> list[int]:
        return list(range(config["num_hidden_layers"]))

    def embed(self, handle: Handle, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, handle["model.embed_tokens.weight"], handle.config["pad_token_id"])

    def head(self, handle: Handle, x: Tensor) -> Tensor:
        tied = handle.config["tie_word_embeddings"]
        return F.linear(x, handle["model.embed_tokens.weight" if tied else "lm_head.weight"])

    def final_norm(self, handle: Handle, x: Tensor) -> Tensor:
        return self.rms_norm(handle, "model.norm", x)

    def llama(
        self, handle: Handle, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        x = self.embed(handle, tokens)
        for layer in self.layers(handle.config):
            x = self.block_step(handle, layer, x, positions, mask, cache)
        if cache is not None:
            self.advance(cache, tokens.shape[1])
        return self.head(handle, self.final_norm(handle, x))

    # loss

    def targets(self, labels: Tensor) -> Tensor:
        return F.pad(labels, (0, 1), value=-100)[:, 1:]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.to(self.wide).flatten(0, 1), self.targets(labels).flatten(), ignore_index=-100)

    # sampling

    def penalise(self, scores: Tensor, tokens: Tensor, penalty: float) -> Tensor:
        said = torch.zeros_like(scores, dtype=torch.bool).scatter(1, tokens, True)
        return torch.where(said, torch.where(scores < 0, scores * penalty, scores / penalty), scores)

    def temper(self, scores: Tensor, temperature: float) -> Tensor:
        return scores / temperature

    def keep_top_k(self, scores: Tensor, k: int) -> Tensor:
        return scores.masked_fill(scores < scores.topk(min(k, scores.shape[-1])).values[:, -1:], -math.inf)

    def keep_top_p(self, scores: Tensor, p: float) -> Tensor:
        ascending, order = scores.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
        removed[:, -1] = False
        return scores.masked_fill(removed.scatter(1, order, removed), -math.inf)

    def keep_min_p(self, scores: Tensor, share: float) -> Tensor:
        likely = scores.softmax(-1)
        return scores.masked_fill(likely < share * likely.amax(-1, keepdim=True), -math.inf)

    def order(self) -> tuple[str, ...]:
        """In which the knobs act, after the penalty."""
        return ("temperature", "top_k", "top_p", "min_p")

    def sampling(
        self, logits: Tensor, tokens: Tensor, temperature: float, top_k: int | None, top_p: float | None,
        min_p: float | None, repetition_penalty: float | None,
    ) -> Tensor:  # fmt: skip
        scores = logits.float()
        if repetition_penalty is not None:
            scores = self.penalise(scores, tokens, repetition_penalty)
        if temperature == 0:
            return F.one_hot(scores.argmax(-1), scores.shape[-1]).float()
        steps: dict[str, tuple[Any, Any]] = {
            "temperature": (self.temper, temperature),
            "top_k": (self.keep_top_k, top_k),
            "top_p": (self.keep_top_p, top_p),
            "min_p": (self.keep_min_p, min_p),
        }
        for name in self.order():
            step, knob = steps[name]
            scores = scores if knob is None else step(scores, knob)
        return self.distribution(scores)

    def distribution(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    # generate

    def next_positions(self, mask: Tensor, T: int) -> Tensor:
        """Of the last T columns: real tokens are counted, padding stands at 0."""
        return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -T:]

    def choose(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def done_before(self, tokens: Tensor, stop: Tensor) -> Tensor:
        """(B,): rows that are done before anything is generated, by what their prompt holds."""
        return torch.zeros(len(tokens), dtype=torch.bool)

    def done_with(self, done: Tensor, chosen: Tensor, stop: Tensor) -> Tensor:
        """(B,): rows that are done once `chosen` (B,) stands behind them."""
        return done | torch.isin(chosen, stop)

    def fill(self, chosen: Tensor, done: Tensor, stop: Sequence[int]) -> Tensor:
        return chosen.where(~done, stop[0]) if stop else chosen

    def finished(self, done: Tensor) -> bool:
        return bool(done.all())

    def generate(
        self, handle: Handle, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
    ) -> Tensor:
        mask = torch.ones_like(tokens) if mask is None else mask
        cache = self.new_cache(handle, len(tokens), tokens.shape[1] + new) if use_cache else None
        unseen, stops = tokens, torch.tensor(stop, dtype=torch.long)
        done = self.done_before(tokens, stops)
        with torch.no_grad():
            for _ in range(new):
                positions = self.next_positions(mask, unseen.shape[1])
                chosen = self.choose(self.llama(handle, unseen, positions, mask, cache)[:, -1])
                chosen = self.fill(chosen, done, stop)
                done = self.done_with(done, chosen, stops)
                tokens = torch.cat((tokens, chosen[:, None]), 1)
                mask = torch.cat((mask, torch.ones_like(chosen)[:, None]), 1)
                unseen = chosen[:, None] if cache is not None else tokens
                if self.finished(done):
                    break
        return tokens
