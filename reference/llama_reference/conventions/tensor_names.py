"""Names of tensors as transformers has them."""

from __future__ import annotations

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def part_of(name: str) -> str:
    """q_proj of model.layers.0.self_attn.q_proj.weight; of a name without layers its module."""
    return name.split(".")[-2] if "." in name else name


def layer_of(name: str) -> int | None:
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None
