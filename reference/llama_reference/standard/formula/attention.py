"""Vaswani et al. 2017, eq. 1, with grouped queries (Ainslie et al. 2023): softmax(q k / sqrt(H)) v."""

import numpy as np

from llama_reference.standard.formula.arrays import Array


def attention(q: Array, k: Array, v: Array, visible: Array) -> Array:
    """Map queries (B, N, T, H), k and v (B, G, S, H), visible (B, T, S) of 1 or 0 to (B, N, T, H).

    A query that sees nothing reads 0.
    """
    N, R, H = q.shape[1], q.shape[1] // k.shape[1], q.shape[3]
    out = np.zeros_like(q)
    for n in range(N):
        scores = np.einsum("bth,bsh->bts", q[:, n], k[:, n // R]) / np.sqrt(H)
        highest = np.where(visible, scores, -np.inf).max(-1, keepdims=True)
        weights = np.exp(np.where(visible, scores - np.where(np.isfinite(highest), highest, 0), -np.inf))
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
        out[:, n] = np.einsum("bts,bsh->bth", weights, v[:, n // R])
    return out


def visible(T: int, S: int, real: Array | None) -> Array:
    """The mask (B or 1, T, S): query t is column S - T + t and sees the columns up to its own that are real."""
    causal = np.tri(T, S, S - T)[None]
    return causal if real is None else causal * real[:, None, :]
