"""The same model with every result rounded by chance: how far off a correct implementation may be.

Monte Carlo arithmetic (Parker 1997): each step is computed in float64, and where transformers rounds its result x to
the dtype, x + u ulp(x) takes its place, u uniform in ±1/2: an error as large as that of rounding, but another one each
time. (Norm, angles and softmax are in float32 in every dtype, and err by its ulp.) How far the answers scatter says how
badly conditioned the question is.

A sum is rounded after every term, as in a plain loop in float32, the least exact order that is in use. Of its many
small errors only the total is drawn: normal, with the variance ulp²/12 of each. (In 16-bit dtypes products are summed
in float32 and rounded once; there the sum's own errors are nothing beside that one.) The errors of frequencies belong
to the model, as in an implementation: they are the same in every call.
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
        self.seed = seed
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
        return x + (torch.rand(x.shape, generator=self.generator, dtype=torch.float64) - 0.5) * ulp(x, dtype)

    def total(self, terms: Tensor) -> Tensor:
        """The sum along the last axis, each term and each sum as if rounded to float32."""
        sums = terms.cumsum(-1)
        squares = ulp(terms, torch.float32).pow(2).sum(-1) + ulp(sums[..., 1:], torch.float32).pow(2).sum(-1)
        normal = torch.randn(squares.shape, generator=self.generator, dtype=torch.float64)
        return sums[..., -1] + normal * (squares / 12).sqrt()

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """x (..., T, i) times the rows of w (..., o, i), as if rounded to the dtype."""
        if self.dtype != torch.float32:
            return self.narrow(x @ w.transpose(-2, -1))
        return self.total(x[..., None, :] * w[..., None, :, :])

    def normalise(self, x: Tensor, eps: float) -> Tensor:
        mean = self.single(self.total(x.pow(2))[..., None] / x.shape[-1])
        root = self.single(self.single(mean + eps).sqrt())
        return self.single(x * self.single(1 / root))

    def norm(self, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        return self.narrow(gain * self.narrow(self.normalise(x.double(), eps)))

    def periods(self, base: Any, channels: int) -> Tensor:
        model = RandomRounding(self.seed)  # which draws the same errors each time
        exponents = model.single(torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        return model.single(base**exponents)

    def angles(self, config: Config, positions: Tensor, _dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        inverse, factor = self.frequencies(config, int(positions.max()) + 1)
        model = RandomRounding(self.seed + 1)
        half = self.single(positions[..., None].double() * model.single(inverse))
        both = torch.cat((half, half), dim=-1)
        return self.narrow(self.single(both.cos() * factor)), self.narrow(self.single(both.sin() * factor))

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x.double()
        return self.narrow(self.narrow(x * cos[:, None]) + self.narrow(self.rotate_half(x) * sin[:, None]))

    def linear(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        y = self.product(x.double(), handle[name + ".weight"])
        bias = handle.weights.get(name + ".bias")
        return y if bias is None else self.narrow(y + bias)

    def head(self, handle: Handle, x: Tensor) -> Tensor:
        tied = handle.config["tie_word_embeddings"]
        return self.product(x, handle["model.embed_tokens.weight" if tied else "lm_head.weight"])

    def softmax(self, scores: Tensor) -> Tensor:
        powers = self.single(self.single(scores - scores.amax(-1, keepdim=True)).exp())
        return self.single(powers / self.total(powers)[..., None])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
        R = q.shape[1] // k.shape[1]
        k, v = self.share(k, R), self.share(v, R)
        scores = self.narrow(self.product(q, k) * scale)
        weights = self.softmax(scores.masked_fill(~seen, torch.finfo(self.dtype).min))
        return self.product(self.narrow(weights), v.transpose(-2, -1))

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


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of each float64 number, if it were of the dtype."""
    exponent = x.detach().contiguous().view(torch.int64) & 0x7FF0000000000000  # and no mantissa: 2 to the exponent
    return exponent.view(torch.float64) * torch.finfo(dtype).eps
