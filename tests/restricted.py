"""Adapters that refuse what is outside a profile, and the profiles that they are tested with."""

import random
from dataclasses import replace
from typing import Any

import torch

from llama_reference.standard.profile import FULL, PARTS, Profile

# By what people's Llamas lack, each alone.
SINGLE: dict[str, dict[str, Any]] = {
    "no biases": {"attention_bias": False, "mlp_bias": False},
    "head_dim is hidden / heads": {"head_dim": False},
    "no grouping": {"num_key_value_heads": False},
    "untied head only": {"tie_word_embeddings": False},
    "default rope only": {"rope_type": ("default",)},
    "llama3 only": {"rope_type": ("llama3",)},
    "no padding": {"padding": False},
    "consecutive positions": {"positions": False},
    "one row": {"batch": False},
    "float32 only": {"dtype": ("float32",)},
    "silu only": {"hidden_act": ("silu",)},
    "no cache": {"cache": False},
    "whole model only": {"parts": ()},
}
PROFILES = {name: replace(FULL, **lacking) for name, lacking in SINGLE.items()}
PLAIN = replace(
    FULL,
    **SINGLE["no biases"] | SINGLE["head_dim is hidden / heads"] | SINGLE["default rope only"] | SINGLE["no padding"]
    | SINGLE["consecutive positions"] | SINGLE["silu only"] | SINGLE["untied head only"],
)  # fmt: skip


def combination(number: int) -> Profile:
    """Two to six restrictions at once, always the same for a number; of two rope types, the later."""
    dice = random.Random(number)
    lacking: dict[str, Any] = {}
    for name in dice.sample(sorted(SINGLE), dice.randint(2, 6)):
        lacking |= SINGLE[name]
    return replace(FULL, **lacking)


class Restricted:
    """An implementation that raises NotImplementedError for whatever the profile does not have."""

    def __init__(self, implementation: Any, profile: Profile) -> None:
        self._implementation = implementation
        self._profile = profile

    def __getattr__(self, name: str) -> Any:
        refused = name in PARTS and name not in self._profile.parts
        if refused or (name == "new_cache" and not self._profile.cache):
            raise AttributeError(name)
        return getattr(self._implementation, name)

    def build(self, config, state, dtype):
        p, heads = self._profile, config["num_attention_heads"]
        lacking = {
            "attention_bias": config["attention_bias"] and not p.attention_bias,
            "mlp_bias": config["mlp_bias"] and not p.mlp_bias,
            "head_dim": config["head_dim"] * heads != config["hidden_size"] and not p.head_dim,
            "groups": config["num_key_value_heads"] != heads and not p.num_key_value_heads,
            "tied": config["tie_word_embeddings"] and not p.tie_word_embeddings,
            "act": config["hidden_act"] not in p.hidden_act,
            "rope": config["rope_parameters"]["rope_type"] not in p.rope_type,
            "dtype": str(dtype).removeprefix("torch.") not in p.dtype,
        }
        if refusals := [name for name, refused in lacking.items() if refused]:
            raise NotImplementedError(", ".join(refusals))
        return self._implementation.build(config, state, dtype)

    def rms_norm(self, handle, where, x):
        self._part("rms_norm", x)
        return self._implementation.rms_norm(handle, where, x)

    def swiglu(self, handle, layer, x):
        self._part("swiglu", x)
        return self._implementation.swiglu(handle, layer, x)

    def rotary(self, handle, q, k, positions):
        self._part("rotary", q)
        self._told(positions, None, None)
        return self._implementation.rotary(handle, q, k, positions)

    def attention(self, handle, layer, x, positions, mask, cache=None):
        self._part("attention", x)
        self._told(positions, mask, cache)
        return self._implementation.attention(handle, layer, x, positions, mask, cache)

    def block(self, handle, layer, x, positions, mask, cache=None):
        self._part("block", x)
        self._told(positions, mask, cache)
        return self._implementation.block(handle, layer, x, positions, mask, cache)

    def llama(self, handle, tokens, positions, mask, cache=None):
        self._part("llama", tokens)
        self._told(positions, mask, cache)
        return self._implementation.llama(handle, tokens, positions, mask, cache)

    def generate(self, handle, tokens, mask, new, use_cache, stop=()):
        self._part("llama", tokens)
        if (use_cache and not self._profile.cache) or (mask is not None and not self._profile.padding):
            raise NotImplementedError("cache, padding")
        return self._implementation.generate(handle, tokens, mask, new, use_cache, stop)

    def _part(self, name, x):
        if name in PARTS and name not in self._profile.parts:
            raise NotImplementedError(name)
        if len(x) > 1 and not self._profile.batch:
            raise NotImplementedError("one row")

    def _told(self, positions, mask, cache):
        if mask is not None and not self._profile.padding:
            raise NotImplementedError("no padding")
        counted = positions[:, :1] + torch.arange(positions.shape[1])
        begins = cache is not None or int(positions[0, 0]) == 0
        if not self._profile.positions and not (begins and torch.equal(positions, counted) and _alike(positions)):
            raise NotImplementedError("positions are counted from 0")


def _alike(positions: torch.Tensor) -> bool:
    return torch.equal(positions, positions[:1].expand_as(positions))
