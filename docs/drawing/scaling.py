"""Figures of the chapter on scaling."""

from matplotlib.figure import Figure

from docs.drawing import INK, figure
from docs.real_models import REAL, forward_flops, parameters


@figure(3)
def flops_by_context(canvas: Figure) -> None:
    """Operations a token of a forward pass, as a multiple of twice the parameters."""
    lengths = [2**n for n in range(8, 18)]
    axes = canvas.subplots()
    for name in ("Llama 2 7B", "Llama 3.1 8B", "Llama 3.1 70B", "Llama 3.1 405B"):
        twice = 2 * sum(parameters(REAL[name]).values())
        axes.semilogx(
            lengths, [forward_flops(REAL[name], T) / T / twice for T in lengths], "o-", ms=4, base=2, label=name
        )
    axes.axhline(1, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="tokens of the text", ylabel="operations a token / (2 × size)", ylim=(0, None))
    axes.set_xticks(lengths, [f"{n // 1024}K" if n >= 1024 else str(n) for n in lengths])
    axes.grid()
    axes.legend()
