"""What the self-contained pages share: one style for light and dark, desk and phone; tables, facts and charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from llama_reference.report.numbers import short
from llama_reference.standard.budget import FACTOR, ULPS
from llama_reference.standard.outcome import Outcome

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --quiet: #667; --line: #d5d8de; --mine: #0b62c4;
  --good: #1a7a3c; --good-bg: #e5f4ea; --near-bg: #eef2d6; --bad: #b3261e; --bad-bg: #fbe4e2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #16181c; --quiet: #99a; --line: #3a3e46;
  --mine: #6db3ff; --good: #6fd08c; --good-bg: #15301e; --near-bg: #2d3014; --bad: #ff8a80; --bad-bg: #43201d; } }
body { margin: 0 auto; padding: 1rem .75rem 3rem; max-width: 46rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.verdict { padding: .6rem .8rem; border-radius: .4rem; font-weight: 600; }
.yes { background: var(--good-bg); color: var(--good); } .no { background: var(--bad-bg); color: var(--bad); }
dl { margin: 1rem 0; } dt { color: var(--quiet); font-size: .85rem; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .3rem .2rem; text-align: center; white-space: pre-line; }
th { font-weight: 500; color: var(--quiet); }
td.same { background: var(--good-bg); color: var(--good); } td.near { background: var(--near-bg); }
td.wrong { background: var(--bad-bg); color: var(--bad); font-weight: 700; } td.none { color: var(--quiet); }
p.note { color: var(--quiet); font-size: .85rem; margin: .4rem 0; }
@media (max-width: 40rem) {
  .stack tr { display: block; margin-bottom: .8rem; } .stack tr:first-child { display: none; }
  .stack th, .stack td { display: flex; justify-content: space-between; gap: 1rem; padding: .3rem .5rem; }
  .stack th { font-weight: 600; } .stack td { text-align: right; border-top: 0; }
  .stack td::before { content: attr(data-heading); color: var(--quiet); font-weight: 400; } }
svg { width: 100%; max-width: 36rem; height: auto; display: block; } svg text { fill: var(--quiet); font-size: 11px; }
"""
CLASSES = {
    Outcome.BITWISE: "same",
    Outcome.HOLDS: "same",
    Outcome.WITHIN: "near",
    Outcome.WRONG: "wrong",
}  # of cells; all others have "none"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 210, 44, 34, 20
BEYOND = 1e12  # where errors that are not finite are drawn
LEGEND = """<p class="note">Error of the hidden state after each layer, in units in the last place, when the model
runs on its own activations. <span style="color:var(--mine)">●</span> the implementation; the broad grey line is
transformers, the dashed one the budget.</p>"""


def document(title: str, verdict: str, good: bool, body: str, style: str = "", how: str = "") -> str:
    """A whole page. Title, verdict and `how` it was reached are text, the body is markup."""
    told = f'<p class="note">{escape(how)}</p>' if how else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}{style}</style>
<h1>{escape(title)}</h1>{told}
<p class="verdict {"yes" if good else "no"}">{escape(verdict)}</p>
{body}
</html>
"""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(title)}</dt><dd>{escape(text)}</dd>' for title, text in pairs)}</dl>"


def cell(shown: str, outcome: Outcome = Outcome.NOT_JUDGED, title: str = "", span: int = 1, heading: str = "") -> str:
    """A cell of a table. `heading` is that of its column, shown next to it where a narrow screen stacks the cells."""
    wide = f' colspan="{span}"' if span > 1 else ""
    told = f' title="{escape(title)}"' if title else ""
    told += f' data-heading="{escape(heading)}"' if heading else ""
    return f'<td{wide} class="{CLASSES.get(outcome, "none")}"{told}>{escape(shown)}</td>'


def row(head: str, cells: Iterable[str]) -> str:
    """A heading, which is text, and cells, which are markup."""
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(cells)}</tr>'


def table(head: Sequence[str], rows: Iterable[str], stacks: bool = False) -> str:
    """Where the screen is too narrow a table scrolls by itself, or its cells are stacked."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="{"stack" if stacks else "wide"}"><table><tr>{titles}</tr>\n{chr(10).join(rows)}</table></div>'


def growth(steps: Sequence[tuple[int, float, float]], layers: int, label: str = "error by layer") -> str:
    """Error by layer (layer, the implementation's, transformers'), and the budget, in ulps, on a logarithmic scale."""
    mine = [(layer, error) for layer, error, _ in steps]
    theirs = [(layer, error) for layer, _, error in steps]
    budget = [(layer, FACTOR * error + ULPS) for layer, error in theirs]
    top = max(_height(error) for _, error in mine + budget)

    def x(layer: int) -> float:
        return LEFT + (layer + 0.5) / layers * (WIDTH - LEFT)

    def y(error: float) -> float:
        return HEIGHT - BOTTOM - _height(error) / top * (HEIGHT - BOTTOM - TOP)

    def line(points: list[tuple[int, float]], style: str) -> str:
        return f'<polyline fill="none" {style} points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)}"/>'

    marks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{short(t)}</text>'
        for t in _ticks(top)
    )
    for layer in range(0, layers, math.ceil(layers / 12)):
        marks += f'<text x="{x(layer):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{layer}</text>'
    dots = "".join(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="var(--mine)"/>' for a, b in mine)
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{marks}
<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 3}" text-anchor="middle">layer</text><text x="4" y="11">ulp</text>
{line(budget, 'stroke="var(--bad)" stroke-dasharray="4 4"')}
{line(theirs, 'stroke="var(--quiet)" stroke-width="5" stroke-opacity=".5"')}
{line(mine, 'stroke="var(--mine)" stroke-width="2"')}{dots}</svg>"""


def _ticks(top: float) -> list[float]:
    return [0.0, *(10.0**k for k in range(top > 2, 13) if _height(10.0**k) <= top)]


def _height(error: float) -> float:
    return math.log10(1 + min(error, BEYOND))
