"""Zhang and Sennrich 2019, eq. 4: y_i = g_i x_i / sqrt(mean_j x_j^2 + eps)."""

import numpy as np

from llama_reference.standard.formula.arrays import Array


def rms_norm(x: Array, gain: Array, eps: float) -> Array:
    """X (..., D) and gain (D)."""
    return gain * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
