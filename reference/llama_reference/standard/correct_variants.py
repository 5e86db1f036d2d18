"""Correct versions that order their operations otherwise than transformers does: none may be called wrong.

Each is standard.stepwise.StepwiseLlama with one step arranged as fast code arranges it. They have
other bits than transformers, and what they are judged by is the budget.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_reference.implementation import Config
from llama_reference.standard.stepwise import Handle, StepwiseLlama

LOWEST = torch.finfo(torch.float32).min  # the score of what may not be seen


class FusedNorm(StepwiseLlama):
    """torch's own RMSNorm: one kernel, which rounds once at its end."""

    def norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), gain, eps)


class ScaledDotProduct(StepwiseLlama):
    """torch's scaled_dot_product_attention, which never sees more than a part of the scores at a time."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, torch.finfo(q.dtype).min)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)


class FusedProjections(StepwiseLlama):
    """One product with the weights of queries, keys and values, one below the other."""

    def project(self, handle: Handle, at: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = _fused(handle, at, ("q_proj", "k_proj", "v_proj"), x)
        N = handle.config["num_attention_heads"]
        G = handle.config["num_key_value_heads"]
        H = handle.config["head_dim"]
        q, k, v = fused.split([N * H, G * H, G * H], dim=-1)
        return self.split(q, H), self.split(k, H), self.split(v, H)


class FusedGateAndUp(StepwiseLlama):
    """One product with the weights of gate and up, one below the other."""

    def swiglu(self, handle: Handle, layer: int, x: Tensor) -> Tensor:
        at = f"model.layers.{layer}.mlp."
        gate, up = _fused(handle, at, ("gate_proj", "up_proj"), x).chunk(2, dim=-1)
        return self.linear(handle, at + "down_proj", self.gate(handle.config, gate, up))


class ComplexRotary(StepwiseLlama):
    """Pairs of channels as complex numbers, turned in float32 and rounded once, as in Meta's code."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turns = torch.complex(cos[:, None, :, :half].to(self.wide), sin[:, None, :, :half].to(self.wide))
        wide = x.to(self.wide)
        turned = torch.complex(wide[..., :half], wide[..., half:]) * turns
        return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)


class WideGate(StepwiseLlama):
    """The activation from its definition, z σ(z), and the product taken from the other side."""

    def gate(self, config: Config, gate: Tensor, up: Tensor) -> Tensor:
        if config["hidden_act"] != "silu":
            return up * self.activation(config, gate)
        wide = gate.to(self.wide)
        return up * (wide * wide.sigmoid()).to(gate.dtype)


class LossByRows(StepwiseLlama):
    """Every position's logarithm, then the sum of each row, then the mean over all that counts."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = self.targets(labels)
        chosen = logits.to(self.wide).log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        counted = targets != -100
        return -(chosen * counted).sum(1).sum() / counted.sum()


class NormInPairs(StepwiseLlama):
    """The mean of squares as a tree of pairs, and the gain multiplied before anything is rounded: mlx's kernel."""

    def norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = x.to(self.wide)
        sums = wide * wide
        while sums.shape[-1] > 1:
            sums = F.pad(sums, (0, sums.shape[-1] % 2))
            sums = sums[..., ::2] + sums[..., 1::2]
        return (gain.to(self.wide) * (wide * torch.rsqrt(sums / x.shape[-1] + eps))).to(x.dtype)


class PlainLoops(StepwiseLlama):
    """Sums of squares and of products term by term, each product and sum rounded to float32: C without vectors."""

    def add(self, total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return total + a * b

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum over the last axis."""
        terms = zip(a.to(self.wide).unbind(-1), b.to(self.wide).unbind(-1), strict=True)
        total = torch.zeros((), dtype=self.wide)
        for x, y in terms:
            total = self.add(total, x, y)
        return total

    def normalise(self, x: Tensor, eps: float) -> Tensor:
        wide = x.to(self.wide)
        return wide / torch.sqrt(self.dot(wide, wide)[..., None] / x.shape[-1] + eps)

    def linear(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        y = self.dot(x[..., None, :], handle[name + ".weight"])
        bias = handle.weights.get(name + ".bias")
        return (y if bias is None else y + bias).to(x.dtype)


class FusedMultiplyAdd(PlainLoops):
    """The same with a product and a sum rounded once, and in rotary too. (In float64 a product of two float32 is
    exact.)"""

    def add(self, total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (total.double() + a.double() * b.double()).to(self.wide)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        across = self.rotate_half(x).to(self.wide) * sin[:, None].to(self.wide)
        return self.add(across, x.to(self.wide), cos[:, None].to(self.wide)).to(x.dtype)


class PowersOfTwo(StepwiseLlama):
    """Softmax by powers of two, as fast kernels have it: 2 to the (score · log₂ e less the largest), fused."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R = q.shape[1] // k.shape[1]
        k, v = self.share(k, R), self.share(v, R)
        factor = scale / math.log(2)
        seen = seen | ~seen.any(-1, keepdim=True)
        scores = (q.to(self.wide) @ k.to(self.wide).transpose(-2, -1)).masked_fill(~seen, -math.inf)
        largest = scores.amax(-1, keepdim=True) * factor
        powers = torch.exp2((scores.double() * factor - largest.double()).to(self.wide))
        return (powers.to(v.dtype) @ v / powers.sum(-1, keepdim=True)).to(q.dtype)


class InTiles(StepwiseLlama):
    """Attention over tiles of keys, with a running maximum and sum, in float32 and rounded once: FlashAttention."""

    TILE = 16

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R, wide = q.shape[1] // k.shape[1], q.to(self.wide) * scale
        k = self.share(k, R).to(self.wide)
        v = self.share(v, R).to(self.wide)
        largest = torch.full((*q.shape[:3], 1), LOWEST, dtype=self.wide)
        total = torch.zeros_like(largest)
        read = torch.zeros_like(wide)
        for start in range(0, k.shape[2], self.TILE):
            tile = slice(start, start + self.TILE)
            scores = (wide @ k[:, :, tile].transpose(-2, -1)).masked_fill(~seen[..., tile], LOWEST)
            above = largest.maximum(scores.amax(-1, keepdim=True))
            weights = (scores - above).exp()
            kept = (largest - above).exp()
            total = total * kept + weights.sum(-1, keepdim=True)
            read = read * kept + weights @ v[:, :, tile]
            largest = above
        return (read / total).to(q.dtype)


class SdpaMath(StepwiseLlama):
    """scaled_dot_product_attention by its plain formula, which scales queries and keys by the root of the scale; a mask
    of booleans, heads in memory as the projections leave them."""

    BACKEND = SDPBackend.MATH

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R = q.shape[1] // k.shape[1]
        seen = seen | ~seen.any(-1, keepdim=True)
        with sdpa_kernel(self.BACKEND):
            return F.scaled_dot_product_attention(q, self.share(k, R), self.share(v, R), seen, scale=scale)


class SdpaFlash(SdpaMath):
    """The same by the fused kernel."""

    BACKEND = SDPBackend.FLASH_ATTENTION


class WideAccumulation(StepwiseLlama):
    """16-bit inputs widened before every product, its sum rounded once; scores and weights are never narrow."""

    def linear(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        bias = handle.weights.get(name + ".bias")
        wide = None if bias is None else bias.to(self.wide)
        return F.linear(x.to(self.wide), handle[name + ".weight"].to(self.wide), wide).to(x.dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        q_ = q.to(self.wide)
        k_ = k.to(self.wide)
        v_ = v.to(self.wide)
        return super().attend(q_, k_, v_, seen, scale).to(q.dtype)


class WideTables(StepwiseLlama):
    """Cosine and sine kept in float32, and turned by before anything is rounded."""

    def angles(self, config: Config, positions: Tensor, _dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return super().angles(config, positions, self.wide)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return super().rotate(x.to(self.wide), cos, sin).to(x.dtype)


class ExactTables(StepwiseLlama):
    """Frequencies and angles in float64, rounded to the dtype at the end."""

    def angles(self, config: Config, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return StepwiseLlama(torch.float64).angles(config, positions, dtype)


def _fused(handle: Handle, at: str, names: tuple[str, ...], x: Tensor) -> Tensor:
    weight = torch.cat([handle[f"{at}{name}.weight"] for name in names])
    biases = [handle.weights[f"{at}{name}.bias"] for name in names if f"{at}{name}.bias" in handle.weights]
    return F.linear(x, weight, torch.cat(biases) if biases else None)


_NORMS = ("rms_norm", "block", "kv_cache", "llama")
_ATTENTION = ("attention", "block", "kv_cache", "llama")
_FEED_FORWARD = ("swiglu", "block", "kv_cache", "llama")
_ROTARY = ("rotary", *_ATTENTION)
_PRODUCTS = ("swiglu", *_ATTENTION)

# name -> the implementation, and the components whose answers its order changes
REORDERINGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "fused rms_norm": (FusedNorm(), _NORMS),
    "rms_norm in pairs": (NormInPairs(), _NORMS),
    "scaled_dot_product_attention": (ScaledDotProduct(), _ATTENTION),
    "sdpa, math": (SdpaMath(), _ATTENTION),
    "sdpa, flash": (SdpaFlash(), _ATTENTION),
    "attention in tiles": (InTiles(), _ATTENTION),
    "softmax by powers of two": (PowersOfTwo(), _ATTENTION),
    "fused q, k, v": (FusedProjections(), _ATTENTION),
    "fused gate and up": (FusedGateAndUp(), _FEED_FORWARD),
    "activation by its definition": (WideGate(), _FEED_FORWARD),
    "complex rotary": (ComplexRotary(), _ROTARY),
    "tables in float32": (WideTables(), _ROTARY),
    "tables by float64": (ExactTables(), _ROTARY),
    "wide accumulation": (WideAccumulation(), _PRODUCTS),
    "plain loops": (PlainLoops(), ("rms_norm", *_PRODUCTS)),
    "fused multiply-add": (FusedMultiplyAdd(), ("rms_norm", "rotary", *_PRODUCTS)),
    "loss by rows": (LossByRows(), ("loss",)),
}
