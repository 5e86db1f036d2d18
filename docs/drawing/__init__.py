"""The figures of the book: `.venv/bin/python -m docs.drawing [NAME ...]` draws them from the code into docs/figures/.

Each function of a module here that is marked `@figure` draws one, and gives its name to the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

FIGURES = Path(__file__).parent.parent / "figures"
# Mid-tones on a transparent ground: at least 4 : 1 against white and against the dark theme's ground.
INK, BLUE, ORANGE, GREEN, RED, PURPLE = "#7a7a7a", "#2f7fd6", "#c9701a", "#2e9152", "#d6484a", "#9668c4"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE)
STYLE: dict[str, Any] = {
    "svg.hashsalt": "llama_scratch",  # the same figure is the same file
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.cmap": "viridis",
}
WIDTH = 5.2  # inches, so that letters stay readable when a phone shrinks the figure

Draw = Callable[[Figure], None]
ALL: dict[str, tuple[float, Draw, bool]] = {}


def figure(height: float, slow: bool = False) -> Callable[[Draw], Draw]:
    """Marks what draws a figure of this height in inches.

    A slow one trains or judges: it is drawn again where it is named, and by no test.
    """

    def keep(draw: Draw) -> Draw:
        ALL[draw.__name__] = height, draw, slow
        return draw

    return keep


def draw(name: str, path: Path) -> None:
    """Draws one figure into a file."""
    height, draws, _ = ALL[name]
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(WIDTH, height), layout="constrained")
        draws(canvas)
        canvas.savefig(path, transparent=True, metadata={"Date": None})
