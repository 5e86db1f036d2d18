"""The pictures of a run of the benchmarks: `python -m benchmarks.plots RESULTS.json FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

COLORS = {"textbook": "tab:blue", "transformers": "tab:orange", "fast": "tab:green", "uncached": "tab:red"}
matplotlib.rcParams["svg.hashsalt"] = "llama_scratch"  # the same run, the same bytes
for part in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"):
    matplotlib.rcParams[part] = "#808080"  # to be read on white and on black


def cost_by_length(info: dict[str, Any]) -> Figure:
    """Milliseconds for one more token behind texts of several lengths, measured and predicted."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, seconds in info["seconds"].items():
        axes.plot(info["lengths"], [s * 1e3 for s in seconds], "o-", color=COLORS[name], label=named(name))
    for name, seconds in info["predicted"].items():
        axes.plot(info["lengths"], [s * 1e3 for s in seconds], ":", color="#808080")
        axes.annotate(f"predicted: {name}", (info["lengths"][-1], seconds[-1] * 1e3), (-4, -12),
                      textcoords="offset points", ha="right")  # fmt: skip
    axes.set(xlabel="tokens before it", ylabel="ms for one more token, 24 M float32", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def share_of_roofline(infos: list[dict[str, Any]]) -> Figure:
    """How much of what the machine's memory and processor allow each decoder reaches."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = list(infos[0]["share_of_roofline"])
    for i, name in enumerate(names):
        at = [row + (i - 1) * 0.27 for row in range(len(infos))]
        bars = axes.barh(
            at, [100 * info["share_of_roofline"][name] for info in infos], 0.25, color=COLORS[name], label=name
        )
        axes.bar_label(bars, [f"{info['batch'] / info['seconds_a_step'][name]:.0f} tokens/s" for info in infos],
                       padding=3, fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(infos)), [info["label"] for info in infos])
    axes.invert_yaxis()
    axes.set(xlabel="share of the roofline of the same run, %", xlim=(0, 135))
    axes.legend(frameon=False, loc="lower right")
    return figure


def named(name: str) -> str:
    return {"fast": "fast, cached", "textbook": "textbook, cached", "uncached": "textbook, no cache"}[name]


def main(results: Path, folder: Path) -> None:
    infos = {b["name"]: b["extra_info"] for b in json.loads(results.read_text())["benchmarks"]}
    decodes = [info for name, info in infos.items() if name.startswith("test_decode[")]
    figures = {"share_of_roofline": share_of_roofline(decodes)} if decodes else {}
    if "test_cost_by_length" in infos:
        figures["cost_by_length"] = cost_by_length(infos["test_cost_by_length"])
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
        print(f"wrote {folder / name}.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
