"""One run of transformers' model with every component listened to: what went in, what came out.

The names are those of the modules, which are the prefixes of the weights: `model.layers.0.self_attn`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from llama_reference.standard import oracle

NORM1, ATTENTION, NORM2, MLP = "input_layernorm", "self_attn", "post_attention_layernorm", "mlp"


@dataclass(frozen=True)
class Inputs:
    """Tokens and positions (B, T), and the mask: None, or (B, T), 1 for a real token and 0 for padding."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """(B, T): what a padded position answers is nobody's business."""
        return torch.ones_like(self.tokens).bool() if self.mask is None else self.mask.bool()


@dataclass(frozen=True)
class Recording:
    """Activations by module name; those of whole modules are (B, T, D)."""

    inputs: Inputs
    head_dim: int
    into: dict[str, Tensor] = field(default_factory=dict)
    out_of: dict[str, Tensor] = field(default_factory=dict)

    def heads(self, layer: int, projection: str) -> Tensor:
        """The layer's q_proj or k_proj as rotary gets it: (B, heads, T, H), laid out in memory as in the model."""
        flat = self.out_of[f"model.layers.{layer}.{ATTENTION}.{projection}"]
        return flat.view(*flat.shape[:2], -1, self.head_dim).transpose(1, 2)


def record(handle: LlamaForCausalLM, inputs: Inputs) -> Recording:
    """Runs the model once, without a cache."""
    recording = Recording(inputs, handle.model.layers[0].self_attn.head_dim)

    def listen(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            recording.into[name] = args[0] if args else kwargs["hidden_states"]
            recording.out_of[name] = output[0] if isinstance(output, tuple) else output

        return module.register_forward_hook(hook, with_kwargs=True)

    layers = [f"model.layers.{layer}" for layer in range(len(handle.model.layers))]
    parts = ("", *(f".{part}" for part in (NORM1, ATTENTION, NORM2, MLP, "self_attn.q_proj", "self_attn.k_proj")))
    names = ["model.embed_tokens", *(layer + part for layer in layers for part in parts), "model.norm", "lm_head"]
    hooks = [listen(name, handle.get_submodule(name)) for name in names]
    try:
        oracle.llama(handle, inputs.tokens, inputs.positions, inputs.mask)
    finally:
        for hook in hooks:
            hook.remove()
    return recording
