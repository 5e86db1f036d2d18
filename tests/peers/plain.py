"""What every peer can be asked: a Llama without biases, of one usual shape, positions that count from 0, no padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llama_reference.standard import budget, cases
from llama_reference.standard.stepwise import Handle, StepwiseLlama

CONFIG = cases.HARD | {
    "hidden_size": 64, "head_dim": 8, "num_key_value_heads": 8, "attention_bias": False, "mlp_bias": False,
    "rope_parameters": cases.ROPES["default"],
}  # fmt: skip
LENGTH = 24
TIMES = 8  # as far off as the standard, and 8 units: what a mistake costs is thousands


def off(adapter: Any, **changes: Any) -> dict[str, float]:
    """How many times its allowance each answer of an adapter is off the formula; above 1 is wrong."""
    config = CONFIG | changes
    state = cases.weights(config, 0)
    standard = StepwiseLlama()
    exact = StepwiseLlama(torch.float64)
    models = [each.build(config, state, torch.float32) for each in (adapter, standard, exact)]
    found = {}
    with torch.no_grad():
        for label, question in _questions(config).items():
            if not hasattr(adapter, label.split(",")[0]):
                continue
            answer, theirs, right = (
                question(each, model) for each, model in zip((adapter, standard, exact), models, strict=True)
            )
            allowed = TIMES * (budget.ulps(theirs, right, torch.float32).max().item() + 1)
            found[label] = budget.ulps(answer, right, torch.float32).max().item() / allowed
    return found


def _questions(config: dict[str, Any]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    B = 2
    N = config["num_attention_heads"]
    G = config["num_key_value_heads"]
    H = config["head_dim"]
    tokens = torch.randint(config["vocab_size"], (B, LENGTH), generator=generator)
    x = torch.randn(B, LENGTH, config["hidden_size"], generator=generator)
    q = torch.randn(B, N, LENGTH, H, generator=generator)
    k = torch.randn(B, G, LENGTH, H, generator=generator)
    at = torch.arange(LENGTH).expand(B, -1)

    def over_a_cache(each: Any, model: Any) -> Tensor:
        cache = each.new_cache(model, B, LENGTH)
        parts = [each.llama(model, tokens[:, i:j], at[:, i:j], None, cache) for i, j in ((0, 9), (9, 10), (10, 20))]
        cache = each.crop(model, cache, 10)
        cache = each.reorder(model, cache, torch.tensor([1, 0]))
        return torch.cat((*parts, each.llama(model, tokens.flip(0)[:, 10:], at[:, 10:], None, cache)), dim=1)

    return {
        "rms_norm": lambda each, model: each.rms_norm(
            model, "model.layers.1.post_attention_layernorm", _like(model, x)
        ),
        "rotary": lambda each, model: torch.cat(each.rotary(model, _like(model, q), _like(model, k), at), dim=1),
        "attention": lambda each, model: each.attention(model, 1, _like(model, x), at, None),
        "swiglu": lambda each, model: each.swiglu(model, 1, _like(model, x)),
        "block": lambda each, model: each.block(model, 1, _like(model, x), at, None),
        "llama": lambda each, model: each.llama(model, tokens, at, None),
        "new_cache, crop and reorder": over_a_cache,
    }


def _like(model: Any, x: Tensor) -> Tensor:
    """As the model takes it: the exact one is in float64."""
    return x.to(model["lm_head.weight"].dtype) if isinstance(model, Handle) else x
