"""The next token's distribution, row by row from the definitions, in transformers' order: repetition penalty (Keskar et
al. 2019), temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).

A token is kept or not by probabilities rounded to float32, the precision that logits are given in: the
float32 logarithms of (1/2, 1/4, 1/8, 1/8) then stand for exactly these, and a boundary at 3/4 is met exactly. Of equal
logits top-p takes the last first, as transformers does up to 16 tokens; beyond, its sort leaves equals in any order.
"""

import numpy as np

from llama_reference.standard.formula.arrays import Array


def sampling(
    logits: Array,
    tokens: Array,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
) -> Array:
    """Logits (B, V) after tokens (B, T) -> probabilities (B, V)."""
    rows = []
    for z, text in zip(logits, tokens.astype(int), strict=True):
        if repetition_penalty is not None:
            z = penalised(z, set(text.tolist()), repetition_penalty)
        if temperature == 0:
            rows.append(np.eye(len(z))[z.argmax()])
            continue
        z = z / temperature
        if top_k is not None:
            z = only(z >= sorted(z, reverse=True)[min(top_k, len(z)) - 1], z)
        if top_p is not None and top_p < 1:
            z = only(nucleus(z, top_p), z)
        if min_p is not None:
            p = given(softmax(z))
            z = only(p >= min_p * p.max(), z)
        rows.append(softmax(z))
    return np.stack(rows)


def penalised(z: Array, text: set[int], penalty: float) -> Array:
    """Each token of the text once: a positive logit shrinks, a negative one grows more negative."""
    return np.array([(x * penalty if x < 0 else x / penalty) if i in text else x for i, x in enumerate(z)])


def nucleus(z: Array, share: float) -> Array:
    """From the likeliest token down, until together they have the share."""
    p, mass = given(softmax(z)), 0.0
    kept = np.zeros(len(z))
    for i in sorted(range(len(z)), key=lambda i: (z[i], i), reverse=True):
        kept[i] = 1
        mass += p[i]
        if mass >= share:
            break
    return kept


def only(kept: Array, z: Array) -> Array:
    return np.where(kept, z, -np.inf)


def given(p: Array) -> Array:
    return p.astype(np.float32).astype(np.float64)


def softmax(z: Array) -> Array:
    grown = np.exp(z - z.max())
    return grown / grown.sum()
