"""The pictures of a run of the benchmarks, and the table of a page: what was measured, where, with what, and when.

`.venv/bin/python -m benchmarks.plots RESULTS.json FOLDER [PAGE.md]` draws into the folder, and puts the table between
the two marks in the page.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from docs.drawing import BLUE, GREEN, INK, ORANGE, RED, STYLE, WIDTH

Info = dict[str, Any]  # what a benchmark tells beside its times
Ratios = dict[str, list[float]]  # by model, one a run
PUBLISHED, COST = "fast / transformers", "test_cost_by_length"  # what published.json has
BEGIN, END = "<!-- the table of a run: make bench -->", "<!-- until here -->"
COLORS = {"textbook": BLUE, "transformers": ORANGE, "fast": GREEN, "uncached": RED}
NAMES = {"uncached": "textbook, no cache", "textbook": "textbook, cached", "fast": "fast, cached"}
PREDICTED = {  # how each line is dashed
    "uncached": ("least by operations, no cache", "--"),
    "cached": ("least by bytes read, cached", ":"),
}


def cost_by_length(info: Info) -> Figure:
    """Milliseconds for one more token behind texts of several lengths, measured, and the least that shapes predict."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in NAMES.items():
        axes.plot(
            info["lengths"], [s * 1e3 for s in info["seconds"][name]], "o-", ms=4, color=COLORS[name], label=label
        )
    for name, (label, line) in PREDICTED.items():
        axes.plot(info["lengths"], [s * 1e3 for s in info["predicted"][name]], line, color=INK, label=label)
    axes.set(xlabel="tokens before it", ylabel="ms for one more token", xscale="log", yscale="log")
    axes.set_xticks(info["lengths"], info["lengths"], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid()
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def beside_transformers(ratios: Ratios) -> Figure:
    """Times as many tokens a second as transformers: the median of the runs, and a line from the least to the most."""
    figure = Figure(figsize=(WIDTH, 0.7 + 0.4 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    for row, found in enumerate(ratios.values()):
        axes.barh(row, median(found), 0.5, color=GREEN)
        axes.plot([min(found), max(found)], [row, row], color=INK, lw=1.5)
        axes.text(max(found) + 0.1, row, spread(found), va="center", fontsize=8)
    axes.axvline(1, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    widest = max(max(found) for found in ratios.values())
    axes.set(xlabel="tokens a second, times transformers'", xlim=(0, 1.4 * widest))
    return figure


def spread(found: list[float]) -> str:
    """The median, and of several runs the least and the most."""
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{median(found):.1f} ({min(found):.1f} to {max(found):.1f})"


def table_of_ratios(ratios: Ratios, where: str) -> str:
    """The medians of several runs as Markdown, and below them where they were measured."""
    rows = [f"| {label} | {spread(found)} |" for label, found in ratios.items()]
    return "\n".join(["| model | fast / transformers |", "| --- | --- |", *rows, "", f"*({where})*"])


def table(infos: list[Info], run: dict[str, Any]) -> str:
    """Tokens a second of one run as Markdown, and below it the machine, the version and the day."""
    names = list(infos[0]["seconds_a_step"])
    heads = ["model", *names, "fast / transformers"]
    rows = [heads, ["---"] * len(heads)]
    for info in infos:
        rows.append([info["label"], *(tokens(info, name) for name in names), f"{ratio(info):.2f}"])
    machine = run["machine_info"]
    version = infos[0]["torch"].partition("+")[0]
    cpu = machine["cpu"]
    where = f"{cpu.get('brand_raw', 'a processor')}, {cpu['count']} cores, {machine['system']}"
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{lines}\n\n*({where}; torch {version}; {run['datetime'][:10]})*"


def ratio(info: Info) -> float:
    seconds = info["seconds_a_step"]
    return seconds["transformers"] / seconds["fast"]


def tokens(info: Info, name: str) -> str:
    """Tokens a second, of all texts of the batch together."""
    return f"{info['batch'] / info['seconds_a_step'][name]:.0f}"


def main(results: Path, folder: Path, page: Path | None = None) -> None:
    """Pictures and table of one run, or of published.json: the ratios of several, and the cost by length of one."""
    run = json.loads(results.read_text())
    infos = {b["name"]: b["extra_info"] for b in run.get("benchmarks", [])}
    decodes = [info for name, info in infos.items() if name.startswith("test_decode[")]
    ratios = run.get(PUBLISHED) or {info["label"]: [ratio(info)] for info in decodes}
    with matplotlib.rc_context(STYLE):
        figures = {"measured_beside_transformers": beside_transformers(ratios)} if ratios else {}
        if cost := infos.get(COST) or run.get(COST):
            figures["measured_cost_by_length"] = cost_by_length(cost)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
            print(f"wrote {folder / name}.svg")
    if page is not None:
        told = table_of_ratios(ratios, run["where"]) if PUBLISHED in run else table(decodes, run)
        write_table(page, told)


def write_table(page: Path, told: str) -> None:
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    text, found = marked.subn(lambda _: f"{BEGIN}\n{told}\n{END}", page.read_text())
    if found != 1:
        raise SystemExit(f"{page}: {BEGIN} and {END} are to stand in it once, found {found}")
    page.write_text(text)
    print(f"wrote the table of {page}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
