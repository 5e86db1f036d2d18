r"""Rotary position embedding, in Hugging Face's half-split layout.

    θ_i = base^(−2i/H)                       one inverse frequency for each pair of channels, i = 0 … H/2 − 1
    q'_i       = q_i cos(p θ_i) − q_{i+H/2} sin(p θ_i)
    q'_{i+H/2} = q_{i+H/2} cos(p θ_i) + q_i sin(p θ_i)

at position p, so that ⟨q'(p), k'(r)⟩ depends on p − r only. (Meta's checkpoints pair 2i with 2i + 1; converting one
permutes the rows of q_proj and k_proj.) Frequencies and angles are float32 whatever the model's dtype, and not stored:
`model.to(torch.bfloat16)` would round a buffer, and angles at position 4000 by up to 0.4 rad.

Su et al. 2021, "RoFormer", eq. 34. Stretched to longer contexts: linear, Chen et al. 2023, eq. 4; dynamic, u/bloc97
and u/emozilla 2023; yarn, Peng et al. 2023, eqs. 19–22; longrope, Ding et al. 2024; llama3, the Llama 3.1 release.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from llama_scratch.model.config import LlamaConfig, Positions, Rotation

LENGTH_MATTERS = ("dynamic", "longrope")  # rope_types whose frequencies change as a text grows


def inverse_frequencies(config: LlamaConfig, length: int) -> tuple[Float32[Tensor, " half"], float]:
    """θ in radians per position, and the factor on cosine and sine, for a call whose largest position is `length` − 1.

    Only LENGTH_MATTERS depend on the length. transformers' dynamic remembers the longest call so far: after it
    a shorter call past max_position_embeddings gets the longer one's frequencies; here its own."""
    rope, H, longest = config.rope_parameters, config.head_dim, config.max_position_embeddings
    base: Any = rope["rope_theta"]
    if rope["rope_type"] == "dynamic":
        # past the trained length transformers' length is a tensor, and with it the base is rounded to float32
        reached = torch.tensor(length, dtype=torch.float32, device="cpu") if length > longest else longest
        base = base * (rope["factor"] * reached / longest - (rope["factor"] - 1)) ** (H / (H - 2))
    periods = base ** (torch.arange(0, H, 2, dtype=torch.float32, device="cpu") / H)  # the same bits on every device
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
    """Keeps short wavelengths, divides long ones by the factor, blends linearly in 1/wavelength between."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original, wavelength = rope["original_max_position_embeddings"], 2 * math.pi / theta
    blend = (original / wavelength - low) / (high - low)
    stretched = torch.where(wavelength > original / low, theta / factor, (1 - blend) * theta / factor + blend * theta)
    return torch.where(wavelength < original / high, theta, stretched)


def _longrope(periods: Tensor, rope: dict[str, Any], length: int, longest: int) -> tuple[Tensor, float]:
    """A searched factor for each frequency: one list up to the original length, another beyond it."""
    original, sharpening = rope["original_max_position_embeddings"], rope.get("attention_factor")
    if sharpening is None:
        factor = longest / original if rope.get("factor") is None else rope["factor"]
        sharpening = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    factors = rope["long_factor" if length > original else "short_factor"]
    return 1.0 / (torch.tensor(factors, dtype=torch.float32, device="cpu") * periods), sharpening


def _yarn(periods: Tensor, rope: dict[str, Any], H: int) -> tuple[Tensor, float]:
    """Keeps the pairs that turn more than beta_fast times within the original length, interpolates those that turn
    less than beta_slow times, ramps between; and sharpens attention."""

    def pair_that_turns(times: float) -> float:
        original = rope["original_max_position_embeddings"]
        return (H * math.log(original / (times * 2 * math.pi))) / (2 * math.log(rope["rope_theta"]))

    def sharpen(scale: float = 1.0) -> float:
        return 1.0 if rope["factor"] <= 1 else 0.1 * scale * math.log(rope["factor"]) + 1.0

    low, high = (pair_that_turns(float(rope.get(key) or usual)) for key, usual in (("beta_fast", 32), ("beta_slow", 1)))
    if rope.get("truncate", True):  # null is false, as in transformers
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, H - 1)
    keep = 1 - ((torch.arange(H // 2, dtype=torch.float32, device="cpu") - low) / (high - low or 0.001)).clamp(0, 1)
    sharpening, one, all_dim = rope.get("attention_factor"), rope.get("mscale"), rope.get("mscale_all_dim")
    if sharpening is None:
        sharpening = sharpen(one) / sharpen(all_dim) if one and all_dim else sharpen()
    return 1.0 / (rope["factor"] * periods) * (1 - keep) + 1.0 / periods * keep, sharpening


def angles(config: LlamaConfig, positions: Positions, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of p·θ_i, times the attention factor, for both halves of the channels, rounded to `dtype`."""
    # read where it matters only: a number that depends on data stops torch.export, the meta device, and a GPU's queue
    length = int(positions.max()) + 1 if config.rope_parameters["rope_type"] in LENGTH_MATTERS else 1
    theta, factor = inverse_frequencies(config, length)
    both = (positions[..., None].float() * theta.to(positions.device)).repeat(1, 1, 2)
    return torch.stack((both.cos() * factor, both.sin() * factor)).to(dtype)


def rotate(x: Float[Tensor, "B heads T H"], rotation: Rotation) -> Float[Tensor, "B heads T H"]:
    """X with each pair of channels turned by its angle."""
    cos, sin = rotation[:, :, None]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
