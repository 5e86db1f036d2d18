"""loss.png: how a run went. Drawn if matplotlib is installed (the `plot` extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_scratch.training.metrics import Metrics, is_installed


def loss_curve(history: Sequence[Metrics], path: Path, baselines: Mapping[str, float]) -> bool:
    """Plot training and validation loss in bits per byte by step, with the baselines, on an axis from 0.

    Returns False, and writes no file, without matplotlib.
    """
    if not is_installed("matplotlib"):
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    draw_loss(figure.subplots(), history, baselines)
    figure.savefig(path, dpi=120)
    return True


def draw_loss(axes: Any, history: Sequence[Metrics], baselines: Mapping[str, float]) -> None:
    """Draw the same into given axes. `baselines`: name -> bits per byte of the held-out text."""
    validated = [row for row in history if row.validation_bits_per_byte is not None]
    steps = [row.step for row in history]
    axes.plot(steps, [row.bits_per_byte for row in history], color="tab:blue", linewidth=1, label="training")
    axes.plot(
        [row.step for row in validated],
        [row.validation_bits_per_byte for row in validated],
        color="tab:orange",
        marker="o",
        label="held-out text",
    )
    for (name, bits), style in zip(baselines.items(), ("--", ":"), strict=True):
        axes.axhline(bits, color="gray", linestyle=style, label=f"{name}: {bits:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
