"""Pre-norm residual layer (Touvron et al. 2023, 2.2): h = x + attention(norm1(x)), y = h + mlp(norm2(h))."""

from collections.abc import Callable

from llama_reference.standard.formula.arrays import Array

Part = Callable[[Array], Array]


def block(x: Array, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Array:
    h = x + attention(norm1(x))
    return h + mlp(norm2(h))
