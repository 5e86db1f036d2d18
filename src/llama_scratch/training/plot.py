"""loss.png: how a run went. Drawn when matplotlib is installed (the `plot` extra)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def loss_curve(history: Sequence[dict[str, Any]], path: Path, baselines: Mapping[str, float]) -> bool:
    """Draws both losses in bits a byte against the step, on one axis from 0, and what the text costs without a model.

    False, and no file, without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    draw_loss(figure.subplots(), history, baselines)
    figure.savefig(path, dpi=120)
    return True


def draw_loss(axes: Any, history: Sequence[dict[str, Any]], baselines: Mapping[str, float]) -> None:
    """The same into given axes. `baselines` has the bits a byte of the held-out text by name."""
    validated = [row for row in history if "validation_bits_per_byte" in row]
    steps = [row["step"] for row in history]
    axes.plot(steps, [row["bits_per_byte"] for row in history], color="tab:blue", linewidth=1, label="training")
    axes.plot(
        [row["step"] for row in validated],
        [row["validation_bits_per_byte"] for row in validated],
        color="tab:orange",
        marker="o",
        label="held-out text",
    )
    for (name, bits), style in zip(baselines.items(), ("--", ":"), strict=True):
        axes.axhline(bits, color="gray", linestyle=style, label=f"{name}: {bits:.2f}")
    axes.set(xlabel="step", ylabel="bits a byte", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
