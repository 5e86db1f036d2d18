"""loss.png: how a run went. Drawn when matplotlib is installed (the `plot` extra)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def loss_curve(history: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draws training loss and validation bits per byte against the step. False, and no file, without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    loss_axis = figure.subplots()
    bits_axis = loss_axis.twinx()
    validated = [row for row in history if "validation_bits_per_byte" in row]
    steps = [row["step"] for row in history]
    (loss,) = loss_axis.plot(steps, [row["loss"] for row in history], color="tab:blue", linewidth=1)
    (bits,) = bits_axis.plot(
        [row["step"] for row in validated],
        [row["validation_bits_per_byte"] for row in validated],
        color="tab:orange",
        marker="o",
    )
    loss_axis.set_xlabel("step")
    loss_axis.set_ylabel("training loss (nats per token)")
    bits_axis.set_ylabel("validation (bits per byte)")
    loss_axis.legend([loss, bits], ["training loss", "validation"])
    loss_axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return True
