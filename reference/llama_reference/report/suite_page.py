"""The Results of a run as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path

from llama_reference import mistakes
from llama_reference.judge.comparison import NO_GRADIENTS
from llama_reference.report import html, notes, summary
from llama_reference.report.numbers import short
from llama_reference.report.results import (
    ANSWERS,
    GRADIENTS,
    VERSIONS,
    Results,
    Row,
    Trouble,
)
from llama_reference.report.summary import HEADINGS
from llama_reference.standard.outcome import Outcome

SECTIONS = ("formula", "oracle", "gradients", "properties")
STYLE = """
body { max-width: 60rem; } dl.said dt { color: inherit; font-weight: 600; font-size: 1rem; } dl.said dd { margin: 0; }
dl.said dd { color: var(--quiet); font-size: .9rem; } dl.said dt + dd { color: var(--bad); }
dl.said dd + dt { margin-top: .8rem; }
code { font-size: .95em; overflow-wrap: anywhere; }
th[scope=row] { text-align: left; color: inherit; padding: .3rem .4rem; position: sticky; left: 0;
  background: var(--paper); }
td { min-width: 4.2rem; } .kills td { min-width: 0; width: 2.6rem; } .kills th:not([scope]) { font-size: .7rem; }
.kills small { display: block; color: var(--quiet); font-size: .75rem; line-height: 1.4; overflow-wrap: anywhere; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; }
summary { padding: .5rem .7rem; cursor: pointer; } summary b { font-weight: 600; } summary span { color: var(--quiet); }
details > div { margin: 0 .5rem .5rem; } details p { margin: .6rem 0 0; font-size: .85rem; } pre { margin: .2rem 0;
  color: var(--quiet); white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .75rem; }
@media (max-width: 40rem) { .kills td { width: 1.3rem; }
  .kills th:not([scope], :first-child) { writing-mode: vertical-rl; } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; font-weight: 600; }
"""


def render(results: Results) -> str:
    """The whole document."""
    good, verdict = summary.verdict(results)
    parts = (
        _remarks("Trouble", notes.on_trouble(results)),
        _remarks("What is wrong", notes.on_failures(results)),
        _conformance(results),
        _by_dtype(results),
        _growth(results),
        _kills(results),
        _unseen(results),
        _equivalents(results),
        _failures(results),
    )
    body = "\n".join(filter(None, parts))
    return html.document(f"{_name(results)}, component by component", verdict, good, body, STYLE, _how(results))


def _name(results: Results) -> str:
    return Path(results.about.get("implementation", "A Llama")).name


def _how(results: Results) -> str:
    """What was judged, how, when and with which versions, as far as a report of an earlier version says it."""
    about = results.about
    told = [
        text + about[key] for text, key in (("", "implementation"), ("judged ", "judged"), ("", "time")) if key in about
    ]
    return ", ".join(told + [f"{name} {about[name]}" for name in VERSIONS if name in about])


def _remarks(title: str, said: list[notes.Remark]) -> str:
    if not said:
        return ""
    told = "".join(
        f"<dt>{escape(about or 'other tests')}</dt>" + "".join(f"<dd>{escape(text)}</dd>" for _, text in group)
        for about, group in groupby(said, key=lambda remark: remark[0])
    )
    return f'<h2>{title}</h2><dl class="said">{told}</dl>'


def _conformance(results: Results) -> str:
    about = summary.asked(results)
    found = {name: summary.cells(results, name) for name in about}
    kept = [i for i in range(len(HEADINGS) - 1) if any(cells[i].text not in ("", "–") for cells in found.values())]
    shown = {name: [cells[i] for i in kept] for name, cells in found.items()}
    headings = [HEADINGS[i + 1] for i in kept]
    lines = [html.row(name, _stacking(headings, cells)) for name, cells in shown.items()]
    remarks = [*notes.on_gaps(results), *notes.on_numbers(results)]
    said = "".join(f'<p class="note">{escape(f"{title}: {text}")}</p>' for title, text in remarks)
    return f"<h2>Conformance</h2>{html.table(['component', *headings], lines, stacks=True)}{said}"


def _stacking(headings: list[str], cells: list[summary.Cell]) -> list[str]:
    return [html.cell(cell.text, cell.outcome, heading=heading) for heading, cell in zip(headings, cells, strict=True)]


def _by_dtype(results: Results) -> str:
    dtypes = list(dict.fromkeys(row.dtype for row in results.rows))
    lines = []
    for name in summary.asked(results):
        for section in (ANSWERS, GRADIENTS):
            if judged := summary.rows(results, name, section):
                of_each = ([row for row in judged if row.dtype == dtype] for dtype in dtypes)
                head = name if section == ANSWERS else f"{name}, gradients"
                lines.append(html.row(head, map(_worth, of_each)))
    note = (
        '<p class="note">The number of answers where all have transformers\' bits. Elsewhere the worst answer: how far '
        "it is off the float64 formula, and how far transformers' is, in units in the last place (ulp). ✗: beyond the "
        "budget.</p>"
    )
    return f"<h2>By dtype</h2>{html.table(['', *dtypes], lines)}{note}" if lines else ""


def _worth(judged: list[Row]) -> str:
    if not judged:
        return html.cell("")
    if all(row.bitwise for row in judged):
        return html.cell(f"{len(judged)} bitwise", Outcome.BITWISE)
    row = summary.nearest([row for row in judged if not row.bitwise])
    off = f"{short(row.error)} ulp\ntransformers {short(row.oracle_error)}"
    told = f"{row.label}, {row.variant}"
    return html.cell(off, Outcome.WITHIN, told) if row.within else html.cell(f"✗ {off}", Outcome.WRONG, told)


def _growth(results: Results) -> str:
    if not any(results.depth.values()):  # the adapter offers no whole model, which the table says
        return ""
    layers = max(map(len, results.depth.values()))
    charts = ""
    for dtype, steps in results.depth.items():
        drawn = '<p class="note">The model could not be run.</p>'
        if steps:
            points = [(layer, *errors) for layer, errors in enumerate(steps)]
            drawn = html.growth(points, layers, f"error by layer in {dtype}")
        charts += f"<figure><figcaption>{escape(dtype)}</figcaption>{drawn}</figure>"
    return f'<h2>Error by layer of the hard model</h2><div class="charts">{charts}</div>{html.LEGEND}'


def _kills(results: Results) -> str:
    """The kill matrix, a component at a time."""
    if not results.kills:
        return ""
    tables = "".join(_killed(name, results.kills[name]) for name in summary.asked(results) if name in results.kills)
    return f"""<h2>Known mistakes, planted one at a time</h2>
<p class="note">✓ the section rejects it; · it does not. The suite is worth what it can reject: every mistake must be
rejected by at least one section of its own component. Seen “own”: thought of, without a public source.</p>{tables}"""


def _killed(component: str, kills: dict[str, list[str]]) -> str:
    texts = {known.name: known for known in mistakes.of(component)}
    lines = []
    for name, by in kills.items():
        known = texts.get(name)
        said = f"<small>{escape(known.why)}</small><small>seen: {escape(known.seen)}</small>" if known else ""
        marks = "".join(_mark(component, section, by) for section in SECTIONS)
        lines.append(f'<tr><th scope="row"><code>{escape(name).replace("_", "_<wbr>")}</code>{said}</th>{marks}</tr>')
    killed = sum(map(bool, kills.values()))
    found = f"{killed} of {len(kills)} rejected"
    opened = "" if killed == len(kills) else " open"  # a survivor is not to be looked for
    return f"""<details{opened}><summary><b>{escape(component)}</b> <span>{found}</span></summary>
<div class="kills">{html.table(["mistake", *SECTIONS], lines)}</div></details>"""


def _mark(component: str, section: str, rejected_by: list[str]) -> str:
    if not rejected_by:
        return html.cell("·", Outcome.WRONG, f"not rejected by {section}")
    if section == "gradients" and component in NO_GRADIENTS:
        return html.cell("–", Outcome.NOT_JUDGED, NO_GRADIENTS[component])
    return html.cell("✓", Outcome.BITWISE, f"rejected by {section}") if section in rejected_by else html.cell("·")


def _unseen(results: Results) -> str:
    told = [(component, ", ".join(names)) for component, names in results.unseen.items() if names]
    note = '<p class="note">Nothing that was asked rejects these: the adapter lacks what they are mistakes of.</p>'
    return f"<h2>Known mistakes that could not have been seen</h2>{note}{html.facts(told)}" if told else ""


def _equivalents(results: Results) -> str:
    told = [(f"{component}: {name}", why) for component, name, why in results.equivalents]
    note = '<p class="note">Nothing observable sets them apart from what is right; they are not counted above.</p>'
    return f"<h2>Equivalent variants</h2>{note}{html.facts(told)}" if told else ""


def _failures(results: Results) -> str:
    """Folded by component: one mistake fails many tests."""
    failed = [trouble for trouble in results.troubles if trouble.kind == Outcome.BROKEN]
    groups: dict[str, list[Trouble]] = {}
    for trouble in failed:
        groups.setdefault(trouble.component or "others", []).append(trouble)
    folded = "".join(
        f"<details><summary><b>{escape(name)}</b> <span>{len(group)} failed</span></summary>"
        f"<div>{''.join(map(_failure, group))}</div></details>"
        for name, group in groups.items()
    )
    return f"<h2>Failed tests ({len(failed)})</h2>{folded}" if failed else ""


def _failure(trouble: Trouble) -> str:
    where = trouble.where.partition("::")[2] if trouble.component else trouble.where
    return f"<p><code>{escape(where)}</code></p><pre>{escape(trouble.message)}</pre>"
