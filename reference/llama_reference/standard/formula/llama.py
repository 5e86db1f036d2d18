"""The whole model: embed, L blocks, norm, head; and decoding one likeliest token after another."""

from collections.abc import Callable, Sequence

import numpy as np

from llama_reference.standard.formula.arrays import Array

Part = Callable[[Array], Array]


def llama(tokens: Array, embedding: Array, blocks: Sequence[Part], norm: Part, head: Array) -> Array:
    """Tokens (B, T), embedding and head (V, D) -> logits (B, T, V)."""
    x = embedding[tokens.astype(int)]
    for block in blocks:
        x = block(x)
    return np.einsum("btd,vd->btv", norm(x), head)
