"""The findings on a checkpoint as one self-contained HTML page."""

from __future__ import annotations

from llama_reference.judge.localization import (
    Finding,
)
from llama_reference.report import html
from llama_reference.report.numbers import short
from llama_reference.report.verification import COLUMNS, Verification
from llama_reference.standard.budget import FACTOR, ULPS
from llama_reference.standard.outcome import Outcome


def render(result: Verification) -> str:
    """The whole document."""
    body = f"""{html.facts(result.conclusions())}
<h2>Each component alone, on transformers' activations</h2>
{_table(result)}
<p class="note">= the same bits; a number: within the budget, and that many units in the last place off the float64
formula; ✗ wrong, and by how many; – not judged. The budget: {FACTOR} times transformers' own error, and {ULPS} ulp.</p>
<h2>The model alone, layer by layer</h2>
{_chart(result)}
<h2>What was compared</h2>
{html.facts(result.about.items())}"""
    return html.document("Verification against transformers", result.summary(), result.agrees, body)


def _table(result: Verification) -> str:
    rows = [html.row(str(layer), map(_cell, result.row(layer))) for layer in result.layers]
    for title, name, where in (("norm", "rms_norm", "model.norm"), ("logits", "llama", "logits")):
        rows.append(html.row(title, [_cell(result.worst(name, where), len(COLUMNS))]))
    return html.table(["layer", *(heading for heading, *_ in COLUMNS)], rows)


def _cell(finding: Finding | None, span: int = 1) -> str:
    if finding is None:
        return html.cell("–", span=span)
    off = short(finding.verdict.error) if finding.verdict else ""
    texts = {
        Outcome.BITWISE: "=",
        Outcome.WITHIN: off,
        Outcome.WRONG: f"✗ {off}",
        Outcome.NOT_OFFERED: "–",
    }
    shown = texts.get(finding.status, finding.status.value)
    return html.cell(shown, finding.status, str(finding), span)


def _chart(result: Verification) -> str:
    """Error of the residual stream by layer: the implementation's, transformers', and the budget between them."""
    verdicts = [(step.layer, step.verdict) for step in result.depth() if step.layer is not None and step.verdict]
    if not verdicts:
        return '<p class="note">The model could not be run.</p>'
    steps = [(layer, verdict.error, verdict.oracle_error) for layer, verdict in verdicts]
    return html.growth(steps, len(result.layers)) + html.LEGEND
