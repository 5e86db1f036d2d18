r"""Rotary position embedding, in Hugging Face's half-split layout.

    θ_i = base^(−2i/H)                   one inverse frequency per pair of channels, i = 0 … H/2 − 1
    q'_i       = q_i cos(p θ_i) − q_{i+H/2} sin(p θ_i)
    q'_{i+H/2} = q_{i+H/2} cos(p θ_i) + q_i sin(p θ_i)

at position p, so that ⟨q'(p), k'(r)⟩ depends on p − r only. (Meta's checkpoints pair 2i with
2i + 1; converting one permutes the rows of q_proj and k_proj.) Frequencies and angles are float32
whatever the model's dtype, and not stored: `model.to(torch.bfloat16)` would round a buffer, and
angles at position 4000 by up to 0.4 rad.

Su et al. 2021, "RoFormer", eq. 34. Longer contexts: linear, Chen et al. 2023, eq. 4; dynamic,
u/bloc97 and u/emozilla 2023; yarn, Peng et al. 2023, eqs. 19–22; longrope, Ding et al. 2024;
llama3, the Llama 3.1 release.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from llama_scratch.model.config import LlamaConfig, Positions, Rotation

LENGTH_MATTERS = ("dynamic", "longrope")  # rope_types whose frequencies change as a text grows


def inverse_frequencies(config: LlamaConfig, length: int) -> tuple[Float32[Tensor, " half"], float]:
    """θ in radians per position, and the factor on cosine and sine, for positions below `length`.

    The length counts for LENGTH_MATTERS only. transformers' dynamic keeps the longest length so
    far for a later shorter call past max_position_embeddings; here each call has its own."""
    rope, H, longest = config.rope_parameters, config.head_dim, config.max_position_embeddings
    base: Any = rope["rope_theta"]
    if rope["rope_type"] == "dynamic":
        reached: Any = longest
        if length > longest:  # transformers' length is a tensor there: float32 rounds the base
            reached = torch.tensor(length, dtype=torch.float32, device="cpu")
        stretch = rope["factor"] * reached / longest - (rope["factor"] - 1)
        base = base * stretch ** (H / (H - 2))
    channels = torch.arange(0, H, 2, dtype=torch.float32, device="cpu")  # same bits on any device
    periods = base ** (channels / H)
    match rope["rope_type"]:
        case "linear":
            return 1.0 / periods / rope["factor"], 1.0
        case "llama3":
            return _llama3(1.0 / periods, rope), 1.0
        case "longrope":
            return _longrope(periods, rope, length, longest)
        case "yarn":
            return _yarn(periods, rope, H)
    return 1.0 / periods, 1.0


def _llama3(theta: Tensor, rope: dict[str, Any]) -> Tensor:
    """Keep short wavelengths, divide long ones by the factor, blend linearly in 1/wavelength."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / theta
    blend = (original / wavelength - low) / (high - low)
    blended = (1 - blend) * theta / factor + blend * theta
    stretched = torch.where(wavelength > original / low, theta / factor, blended)
    return torch.where(wavelength < original / high, theta, stretched)


def _longrope(
    periods: Tensor, rope: dict[str, Any], length: int, longest: int
) -> tuple[Tensor, float]:
    """Divide by a searched factor per frequency: one list up to the original length, one beyond."""
    original = rope["original_max_position_embeddings"]
    sharpening = rope.get("attention_factor")
    if sharpening is None:
        factor = longest / original if rope.get("factor") is None else rope["factor"]
        sharpening = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
    factors = rope["long_factor" if length > original else "short_factor"]
    stretched = torch.tensor(factors, dtype=torch.float32, device="cpu") * periods
    return 1.0 / stretched, sharpening


def _yarn(periods: Tensor, rope: dict[str, Any], H: int) -> tuple[Tensor, float]:
    """Keep high frequencies (more than beta_fast turns in the original context), divide low ones
    (fewer than beta_slow) by the factor, interpolate between; also return the attention factor."""

    def pair_that_turns(times: float) -> float:
        wavelength = rope["original_max_position_embeddings"] / (times * 2 * math.pi)
        return (H * math.log(wavelength)) / (2 * math.log(rope["rope_theta"]))

    def sharpen(scale: float = 1.0) -> float:
        return 1.0 if rope["factor"] <= 1 else 0.1 * scale * math.log(rope["factor"]) + 1.0

    low = pair_that_turns(float(rope.get("beta_fast") or 32))
    high = pair_that_turns(float(rope.get("beta_slow") or 1))
    if rope.get("truncate", True):  # null is false, as in transformers
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0)
    high = min(high, H - 1)
    pairs = torch.arange(H // 2, dtype=torch.float32, device="cpu")
    keep = 1 - ((pairs - low) / (high - low or 0.001)).clamp(0, 1)
    sharpening = rope.get("attention_factor")
    one = rope.get("mscale")
    all_dim = rope.get("mscale_all_dim")
    if sharpening is None:
        sharpening = sharpen(one) / sharpen(all_dim) if one and all_dim else sharpen()
    return 1.0 / (rope["factor"] * periods) * (1 - keep) + 1.0 / periods * keep, sharpening


def angles(config: LlamaConfig, positions: Positions, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of p·θ_i times the attention factor, for both halves, rounded to `dtype`."""
    length = 1
    if config.rope_parameters["rope_type"] in LENGTH_MATTERS:
        # only there: reading a number stops torch.export, the meta device, and a GPU's queue
        length = int(positions.max()) + 1
    theta, factor = inverse_frequencies(config, length)
    half = positions[..., None].float() * theta.to(positions.device)
    both = half.repeat(1, 1, 2)
    return torch.stack((both.cos() * factor, both.sin() * factor)).to(dtype)


def rotate(x: Float[Tensor, "B heads T H"], rotation: Rotation) -> Float[Tensor, "B heads T H"]:
    """Rotate each channel pair of `x` by its angle."""
    cos, sin = rotation[:, :, None]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
