"""Figures of the chapter on speed."""

from matplotlib.figure import Figure

from docs.drawing import BLUE, GREEN, INK, ORANGE, figure
from docs.real_models import REAL, intensity


@figure(3.2)
def arithmetic_intensity(canvas: Figure) -> None:
    """Operations per byte read of one call, by how many tokens it computes at once."""
    tokens = [2**n for n in range(13)]
    axes = canvas.subplots()
    for past, colour in ((0, BLUE), (8192, ORANGE), (131072 - 4096, GREEN)):
        ratios = [intensity(REAL["Llama 3.1 8B"], T, past) for T in tokens]
        axes.loglog(tokens, ratios, "o-", ms=4, base=2, color=colour, label=f"{past:,} tokens in the cache")
    axes.axhline(1, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="tokens computed in one call (decoding: 1)", ylabel="operations a byte")
    axes.grid()
    axes.legend()
