"""The same model with every result rounded by chance: how far off a correct implementation may be.

Monte Carlo arithmetic (Parker 1997): each step is computed in float64, and where transformers rounds its result x to
the dtype, x + u ulp(x) takes its place, u uniform in ±1/2: an error as large as that of rounding, but another one each
time. (Norm, angles and softmax are in float32 in every dtype, and err by its ulp.) How far the answers scatter says how
badly conditioned the question is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import Config, State
from llama_reference.standard.stepwise import Cache, Handle, StepwiseLlama


class RandomRounding(StepwiseLlama):
    """An implementation of the dtype that it builds, in float64 numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(torch.float64)
        self.dtype = torch.float32
        self.generator = torch.Generator().manual_seed(seed)

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Handle:
        self.dtype = dtype
        return super().build(config, state, dtype)

    def narrow(self, x: Tensor) -> Tensor:
        """As if rounded to the dtype."""
        return self.rounded(x, self.dtype)

    def single(self, x: Tensor) -> Tensor:
        """As if rounded to float32."""
        return self.rounded(x, torch.float32)

    def rounded(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = x.double()
        ulp = torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps), torch.frexp(x).exponent - 1)
        u = torch.rand(x.shape, generator=self.generator, dtype=torch.float64) - 0.5
        return x + u * ulp

    def norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return self.narrow(gain * self.narrow(self.single(self.normalise(x.double(), eps))))

    def angles(self, config: Config, positions: Tensor, _dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        inverse, factor = self.frequencies(config, int(positions.max()) + 1)
        half = self.single(positions[..., None].double() * self.single(inverse))
        both = torch.cat((half, half), dim=-1)
        return self.narrow(self.single(both.cos() * factor)), self.narrow(self.single(both.sin() * factor))

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x.double()
        return self.narrow(self.narrow(x * cos[:, None]) + self.narrow(self.rotate_half(x) * sin[:, None]))

    def linear(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        return self.narrow(super().linear(handle, name, x.double()))

    def head(self, handle: Handle, x: Tensor) -> Tensor:
        return self.narrow(super().head(handle, x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R = q.shape[1] // k.shape[1]
        k, v = self.share(k, R), self.share(v, R)
        scores = self.narrow(self.narrow(q @ k.transpose(-2, -1)) * scale)
        weights = self.softmax(scores.masked_fill(~seen, torch.finfo(self.dtype).min))
        return self.narrow(self.narrow(self.single(weights)) @ v)

    def gate(self, config: Config, gate: Tensor, up: Tensor) -> Tensor:
        return self.narrow(self.narrow(self.activation(config, gate)) * up)

    def block_step(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        at, x = f"model.layers.{layer}.", x.double()
        normed = self.rms_norm(handle, at + "input_layernorm", x)
        h = self.narrow(x + self.attention_step(handle, layer, normed, positions, mask, cache))
        return self.narrow(h + self.swiglu(handle, layer, self.rms_norm(handle, at + "post_attention_layernorm", h)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        sums = self.single(logits.double().logsumexp(-1, keepdim=True))
        losses = self.single(sums - logits.double())
        return self.single(F.nll_loss(-losses.flatten(0, 1), self.targets(labels).flatten(), ignore_index=-100))

    def sampling(self, logits: Tensor, tokens: Tensor, *knobs: Any, **named: Any) -> Tensor:
        """transformers' own: which tokens stay is no matter of degree."""
        return StepwiseLlama().sampling(logits, tokens, *knobs, **named).double()
