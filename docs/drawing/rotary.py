"""Figures of the chapter on rotary embeddings."""

import math

import torch
from matplotlib.figure import Figure

from docs.drawing import BLUE, COLOURS, INK, figure
from llama_scratch import LlamaConfig
from llama_scratch.model.rotary import angles, inverse_frequencies, rotate

LLAMA_3_1 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}  # fmt: skip


def config(length: int = 8192, **rope: object) -> LlamaConfig:
    """A head of 128 channels, as Llama 3's."""
    return LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=length,
                       rope_parameters=rope or {"rope_type": "default", "rope_theta": 5e5})  # fmt: skip


@figure(3.3)
def cosine_encoding(canvas: Figure) -> None:
    """Vaswani et al. 2017, section 3.5: what was added to the embeddings."""
    D, p = 64, torch.arange(100)[:, None]
    angle = p / 10000 ** (torch.arange(0, D, 2) / D)
    encoding = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
    axes = canvas.subplots()
    canvas.colorbar(axes.imshow(encoding.T.numpy(), aspect="auto", cmap="RdBu_r", interpolation="nearest"))
    axes.set(xlabel="position", ylabel="channel")


@figure(1.7)
def rotation(canvas: Figure) -> None:
    """One vector, pair by pair, at positions 0 to 7."""
    H, positions = 8, torch.arange(8)[None]
    settings = LlamaConfig(
        hidden_size=H, num_attention_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 100.0}
    )
    x = torch.tensor([1.0] * 4 + [0.0] * 4).expand(1, 1, 8, H)
    turned = rotate(x, angles(settings, positions, torch.float32))[0, 0]
    for i, axes in enumerate(canvas.subplots(1, 4)):
        for p in range(8):
            axes.plot((0, turned[p, i]), (0, turned[p, i + 4]), color=BLUE, alpha=0.25 + 0.1 * p, lw=1.5)
            if i < 2 or p in (0, 7):  # between them slow pairs leave no room
                axes.text(1.25 * turned[p, i], 1.25 * turned[p, i + 4], p, ha="center", va="center", fontsize=9)
        axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=f"channels\n{i} and {i + 4}")
        axes.set_axis_off()


@figure(3)
def decay(canvas: Figure) -> None:
    """The inner product of a vector of ones with itself, by the distance between its two positions."""
    reach = 2000
    axes = canvas.subplots()
    for base, colour in ((1e4, COLOURS[0]), (5e5, COLOURS[1])):
        settings = config(rope_type="default", rope_theta=base)
        ones = torch.ones(1, 1, reach, 128)
        turned = rotate(ones, angles(settings, torch.arange(reach)[None], torch.float32))[0, 0]
        axes.plot(turned @ turned[0] / 128, color=colour, lw=1, label=f"base {base:g}")
    axes.axhline(0, color=INK, lw=0.5)
    axes.set(xlabel="distance between query and key", ylabel="⟨q, k⟩ / H")
    axes.legend()


@figure(3.2)
def frequency_bands(canvas: Figure) -> None:
    """What each way of stretching makes of every frequency, by wavelength."""
    plain, _ = inverse_frequencies(config(), 8192)
    original = {"original_max_position_embeddings": 8192, "rope_theta": 5e5, "factor": 8.0}
    ways = {
        "linear": (config(rope_type="linear", rope_theta=5e5, factor=8.0), 65536),
        "dynamic (NTK)": (config(rope_type="dynamic", rope_theta=5e5, factor=8.0), 65536),
        "yarn": (config(65536, rope_type="yarn", **original), 65536),
        "llama3": (config(131072, **LLAMA_3_1), 65536),
    }
    axes = canvas.subplots()
    for (name, (settings, length)), style in zip(ways.items(), ("--", "-.", ":", "-"), strict=True):
        theta, _ = inverse_frequencies(settings, length)
        axes.semilogx(2 * math.pi / plain, theta / plain, style, label=name)
    axes.axvline(8192, color=INK, lw=1)
    axes.text(8192 * 1.2, 0.95, "trained length", va="top")
    axes.set(xlabel="wavelength in tokens, before stretching", ylabel="frequency, of what it was")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, 1.2), ncols=4, columnspacing=1, handlelength=1.6)
