"""Shazeer 2020, eq. 6: W_down (phi(W_gate x) * W_up x), each product with its bias where there is one."""

import math
from collections.abc import Callable

import numpy as np

from llama_reference.standard.formula.arrays import Array

Linear = Callable[[Array], Array]


def phi(z: Array, hidden_act: str) -> Array:
    """The activation: z sigmoid(z); z Phi(z), Phi the normal distribution, or its tanh approximation; max(z, 0)."""
    if hidden_act == "silu":
        return z / (1 + np.exp(-z))
    if hidden_act == "gelu":
        return z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2
    if hidden_act == "gelu_pytorch_tanh":
        return z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return np.maximum(z, 0)


def swiglu(x: Array, gate: Linear, up: Linear, down: Linear, hidden_act: str) -> Array:
    """X (..., D) -> (..., D)."""
    return down(phi(gate(x), hidden_act) * up(x))
