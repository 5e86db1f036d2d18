"""Families of mistakes in how a block puts its parts together."""

from __future__ import annotations

from typing import Any

from llama_reference.mistakes.family import TIMES, Family
from llama_reference.mistakes.mistake import Steps


def _residual(keep: float = 1.0, first: float = 1.0, second: float = 1.0) -> Steps:
    def block_step(self: Any, handle: Any, layer: int, x: Any, positions: Any, mask: Any, cache: Any) -> Any:
        at = f"model.layers.{layer}."
        normed = self.rms_norm(handle, at + "input_layernorm", x)
        h = keep * x + first * self.attention_step(handle, layer, normed, positions, mask, cache)
        return keep * h + second * self.swiglu(handle, layer, self.rms_norm(handle, at + "post_attention_layernorm", h))

    return {"block_step": block_step}


FAMILIES = (
    Family("block", "branches_times", "both branches are multiplied by {n} before they are added", TIMES,
           lambda n: _residual(first=n, second=n)),
    Family("block", "attention_times", "attention's output is multiplied by {n} before it is added", TIMES,
           lambda n: _residual(first=n)),
    Family("block", "mlp_times", "the mlp's output is multiplied by {n} before it is added", TIMES, lambda n: _residual(second=n)),
    Family("block", "stream_times", "the stream is multiplied by {n} before a branch is added", TIMES, lambda n: _residual(keep=n)),
)  # fmt: skip
