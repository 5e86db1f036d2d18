"""Figures of the chapter on the feed-forward layer."""

import torch
from matplotlib.figure import Figure

from docs.drawing import COLOURS, INK, figure
from llama_scratch import LlamaConfig
from llama_scratch.model.swiglu import ACTIVATION, SwiGLU


@figure(2.9)
def activations(canvas: Figure) -> None:
    """The three activations."""
    z = torch.linspace(-4, 3, 200)
    axes = canvas.subplots()
    for name, colour in zip(("relu", "gelu", "silu"), COLOURS, strict=False):
        axes.plot(z, ACTIVATION[name](z), color=colour, label={"relu": "ReLU", "gelu": "GELU", "silu": "SiLU"}[name])
    axes.axhline(0, color=INK, lw=0.5)
    axes.axvline(0, color=INK, lw=0.5)
    axes.set(xlabel="z", ylabel="φ(z)")
    axes.legend()


@figure(3.4)
def gate_surface(canvas: Figure) -> None:
    """The layer with one hidden channel, over gate and up."""
    layer = SwiGLU(LlamaConfig(hidden_size=2, intermediate_size=1, num_attention_heads=1))
    for part, weight in ((layer.gate_proj, [[1.0, 0]]), (layer.up_proj, [[0, 1.0]]), (layer.down_proj, [[1.0], [0]])):
        part.weight.data = torch.tensor(weight)
    axis = torch.linspace(-4, 4, 81)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    y = layer(x)[..., 0].detach().numpy()
    axes = canvas.subplots()
    shown = axes.imshow(y, origin="lower", extent=(-4, 4, -4, 4), cmap="RdBu_r", vmin=-12, vmax=12)
    lines = axes.contour(axis.numpy(), axis.numpy(), y, levels=[-1, 0.0, 1, 4, 8], colors=INK, linewidths=0.8)
    axes.clabel(lines, fontsize=8)
    axes.set(xlabel="gate: what goes through SiLU", ylabel="up: what is let through")
    canvas.colorbar(shown, label="y")
