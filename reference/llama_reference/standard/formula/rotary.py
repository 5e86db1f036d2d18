"""Su et al. 2021, eq. 15: channels i and i + H/2 form a plane, turned by p theta_i at position p.

theta_i = base^(-2i/H), stretched for longer contexts as rope_type says. Everything in float64, from the definitions.
"""

import math
from typing import Any

import numpy as np

from llama_reference.standard.formula.arrays import Array


def inverse_frequencies(config: dict[str, Any], length: int) -> tuple[Array, float]:
    """Theta (H / 2) for a call that reaches position length - 1, and the factor on cosine and sine."""
    rope, H = config["rope_parameters"], config["head_dim"]
    base, kind = rope["rope_theta"], rope["rope_type"]
    if kind == "dynamic":
        longest = config["max_position_embeddings"]
        stretch = rope["factor"] * max(length, longest) / longest - (rope["factor"] - 1)
        base = base * stretch ** (H / (H - 2))
    theta = np.array([base ** (-2 * i / H) for i in range(H // 2)])
    if kind == "linear":
        theta = theta / rope["factor"]
    if kind == "llama3":
        theta = np.array([llama3(t, rope) for t in theta])
    if kind == "longrope":
        return longrope(theta, rope, length, config["max_position_embeddings"])
    if kind == "yarn":
        return yarn(theta, rope, base)
    return theta, 1.0


def llama3(theta: float, rope: dict[str, Any]) -> float:
    """Turns within the original context: more than high_freq_factor, keep; less than low_freq_factor, divide by factor;
    between them, in proportion.
    """
    turns = rope["original_max_position_embeddings"] * theta / (2 * math.pi)
    low = rope["low_freq_factor"]
    high = rope["high_freq_factor"]
    kept = min(max((turns - low) / (high - low), 0), 1)
    return theta * (kept + (1 - kept) / rope["factor"])


def longrope(theta: Array, rope: dict[str, Any], length: int, longest: int) -> tuple[Array, float]:
    original = rope["original_max_position_embeddings"]
    divisors = rope["long_factor"] if length > original else rope["short_factor"]
    factor = rope.get("factor") or longest / original
    sharpening = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return theta / np.array(divisors), rope.get("attention_factor") or sharpening


def yarn(theta: Array, rope: dict[str, Any], base: float) -> tuple[Array, float]:
    """Peng et al. 2023, eqs. 19 to 22; the ramp runs over channels, rounded outwards, as in the authors' code."""
    half = len(theta)
    original = rope["original_max_position_embeddings"]

    def channel(turns: float) -> float:
        return half * math.log(original / (turns * 2 * math.pi)) / math.log(base)

    first = max(math.floor(channel(rope.get("beta_fast") or 32)), 0)
    last = min(math.ceil(channel(rope.get("beta_slow") or 1)), 2 * half - 1)
    stretched = np.clip((np.arange(half) - first) / max(last - first, 0.001), 0, 1)
    sharpening = rope.get("attention_factor") or 0.1 * math.log(rope["factor"]) + 1
    return theta * (stretched / rope["factor"] + (1 - stretched)), sharpening


def rotary(x: Array, positions: Array, config: dict[str, Any]) -> Array:
    """X (B, heads, T, H) at positions (B, T), as rotations of complex numbers."""
    theta, factor = inverse_frequencies(config, int(positions.max()) + 1)
    planes = x[..., : len(theta)] + 1j * x[..., len(theta) :]
    turned = planes * factor * np.exp(1j * positions[:, None, :, None] * theta)
    return np.concatenate((turned.real, turned.imag), axis=-1)
