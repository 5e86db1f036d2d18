"""Figures of the chapter on RMSNorm."""

import torch
from matplotlib.figure import Figure
from torch import nn

from docs.drawing import BLUE, INK, ORANGE, figure
from llama_scratch.model.rms_norm import RMSNorm


@figure(4.6)
def norms_compared(canvas: Figure) -> None:
    """Rows of two channels before and behind RMSNorm and LayerNorm."""
    rows = torch.randn(120, 2, generator=torch.Generator().manual_seed(1)) * 1.2 + torch.tensor([1.5, 0.3])
    layer = nn.LayerNorm(2, eps=1e-6)
    for axes, (title, function) in zip(
        canvas.subplots(2, 2).flat,
        (
            ("x", lambda x: x),
            ("RMSNorm: rescaled", RMSNorm(2, 1e-6)),
            ("centred only", lambda x: x - x.mean(-1, keepdim=True)),
            ("LayerNorm: centred, rescaled", layer),
        ),
        strict=True,
    ):
        y = function(rows).detach()
        axes.scatter(*y.T, s=9, c=torch.atan2(rows[:, 1], rows[:, 0]), cmap="hsv", alpha=0.6)
        axes.set(title=title, xlim=(-4.5, 4.5), ylim=(-3, 3), aspect="equal")
        axes.axhline(0, color=INK, lw=0.5)
        axes.axvline(0, color=INK, lw=0.5)


@figure(2.9)
def eps_matters(canvas: Figure) -> None:
    """Root mean square of the output against that of the input, for three eps."""
    axes = canvas.subplots()
    sizes = torch.logspace(-5, 1, 100)
    for eps, colour in ((1e-5, BLUE), (1e-6, ORANGE)):
        y = RMSNorm(64, eps)(sizes[:, None] * torch.ones(64)).detach()
        axes.loglog(sizes, y.pow(2).mean(-1).sqrt(), color=colour, label=f"ε = {eps:g}")
        axes.axvline(eps**0.5, color=colour, lw=1, ls=":")
    axes.set(xlabel="root mean square of x (dotted: √ε)", ylabel="of y")
    axes.grid()
    axes.legend()
