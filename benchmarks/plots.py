"""The pictures of a run of the benchmarks, and the table of a page: what was measured, where, with what, and when.

`python -m benchmarks.plots RESULTS.json FOLDER [PAGE.md]` draws into the folder, and puts the table between the two
marks in the page.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from docs.drawing import BLUE, GREEN, INK, ORANGE, RED, STYLE, WIDTH

Info = dict[str, Any]  # what a benchmark tells beside its times
BEGIN, END = "<!-- the table of a run: make bench -->", "<!-- until here -->"
COLORS = {"textbook": BLUE, "transformers": ORANGE, "fast": GREEN, "uncached": RED}
NAMES = {"uncached": "textbook, no cache", "textbook": "textbook, cached", "fast": "fast, cached"}


def cost_by_length(info: Info) -> Figure:
    """Milliseconds for one more token behind texts of several lengths, measured, and dotted what is predicted."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in NAMES.items():
        axes.plot(
            info["lengths"], [s * 1e3 for s in info["seconds"][name]], "o-", ms=4, color=COLORS[name], label=label
        )
    for label, seconds in zip(("predicted", None), info["predicted"].values(), strict=True):
        axes.plot(info["lengths"], [s * 1e3 for s in seconds], ":", color=INK, label=label)
    axes.set(xlabel="tokens before it", ylabel="ms for one more token", xscale="log", yscale="log")
    axes.set_xticks(info["lengths"], info["lengths"], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid()
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def share_of_roofline(infos: list[Info]) -> Figure:
    """How much of what the machine's memory and processor allow each decoder reaches, and tokens a second."""
    figure = Figure(figsize=(WIDTH, 0.9 + 0.75 * len(infos)), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(infos[0]["share_of_roofline"]):
        shares = [100 * info["share_of_roofline"][name] for info in infos]
        bars = axes.barh(
            [row + (i - 1) * 0.27 for row in range(len(infos))], shares, 0.25, color=COLORS[name], label=name
        )
        axes.bar_label(bars, [f"{tokens(info, name)} tokens/s" for info in infos], padding=3, fontsize=8)
    axes.axvline(100, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(infos)), [info["label"].replace(" ", "\n", 1) for info in infos])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    widest = max(max(info["share_of_roofline"].values()) for info in infos)
    axes.set(
        xlabel="% of what memory and processor allow", xlim=(0, max(130, 100 * widest + 40)), xticks=range(0, 101, 25)
    )
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def table(infos: list[Info], run: dict[str, Any]) -> str:
    """Tokens a second as Markdown, and below it the machine, the version and the day."""
    names = list(infos[0]["share_of_roofline"])
    heads = ["model", *names, "fast / transformers", "fast, of the roofline"]
    rows = [heads, ["---"] * len(heads)]
    for info in infos:
        seconds, share = info["seconds_a_step"], info["share_of_roofline"]["fast"]
        ratio = f"{seconds['transformers'] / seconds['fast']:.2f}"
        rows.append([info["label"], *(tokens(info, name) for name in names), ratio, f"{share:.0%}"])
    machine, version = run["machine_info"], infos[0]["torch"].partition("+")[0]
    cpu = machine["cpu"]
    where = f"{cpu.get('brand_raw', 'a processor')}, {cpu['count']} cores, {machine['system']}"
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n*({where}; torch {version}; {run['datetime'][:10]})*"


def tokens(info: Info, name: str) -> str:
    """Tokens a second, of all texts of the batch together."""
    return f"{info['batch'] / info['seconds_a_step'][name]:.0f}"


def main(results: Path, folder: Path, page: Path | None = None) -> None:
    run = json.loads(results.read_text())
    infos = {b["name"]: b["extra_info"] for b in run["benchmarks"]}
    decodes = [info for name, info in infos.items() if name.startswith("test_decode[")]
    with matplotlib.rc_context(STYLE):
        figures = {"measured_share_of_roofline": share_of_roofline(decodes)} if decodes else {}
        if "test_cost_by_length" in infos:
            figures["measured_cost_by_length"] = cost_by_length(infos["test_cost_by_length"])
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
            print(f"wrote {folder / name}.svg")
    if page is not None:
        marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
        text, found = marked.subn(lambda _: f"{BEGIN}\n{table(decodes, run)}\n{END}", page.read_text())
        if found != 1:
            raise SystemExit(f"{page}: {BEGIN} and {END} are to stand in it once, found {found}")
        page.write_text(text)
        print(f"wrote the table of {page}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
