"""Correct versions that order their operations otherwise than transformers does: none may be called wrong.

Each is standard.stepwise.StepwiseLlama with one step arranged as fast code arranges it. They have
other bits than transformers, and what they are judged by is the budget.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import Config
from llama_reference.standard.stepwise import Handle, StepwiseLlama


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
        N, G, H = (handle.config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        q, k, v = (self.split(part, H) for part in fused.split([N * H, G * H, G * H], dim=-1))
        return q, k, v


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


def _fused(handle: Handle, at: str, names: tuple[str, ...], x: Tensor) -> Tensor:
    weight = torch.cat([handle[f"{at}{name}.weight"] for name in names])
    biases = [handle.weights[f"{at}{name}.bias"] for name in names if f"{at}{name}.bias" in handle.weights]
    return F.linear(x, weight, torch.cat(biases) if biases else None)


# name -> the implementation, and the components whose answers its order changes
REORDERINGS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "fused rms_norm": (FusedNorm(), ("rms_norm", "block", "kv_cache", "llama")),
    "scaled_dot_product_attention": (ScaledDotProduct(), ("attention", "block", "kv_cache", "llama")),
    "fused q, k, v": (FusedProjections(), ("attention", "block", "kv_cache", "llama")),
    "fused gate and up": (FusedGateAndUp(), ("swiglu", "block", "kv_cache", "llama")),
    "complex rotary": (ComplexRotary(), ("rotary", "attention", "block", "kv_cache", "llama")),
    "activation by its definition": (WideGate(), ("swiglu", "block", "kv_cache", "llama")),
    "loss by rows": (LossByRows(), ("loss",)),
}
