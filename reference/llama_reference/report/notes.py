"""What to say below the table of a run: what is wrong and what it looks like, what is lacking, what cannot exist."""

from __future__ import annotations

from llama_reference.judge.comparison import NO_GRADIENTS
from llama_reference.report.numbers import short
from llama_reference.report.results import (
    ANSWERS,
    BIT_FOR_BIT,
    GRADIENTS,
    Results,
    Row,
    Trouble,
)
from llama_reference.report.summary import asked, cells, nearest, rows, suspects, troubles, wrong
from llama_reference.standard.budget import FACTOR, ULPS
from llama_reference.standard.outcome import Outcome

Remark = tuple[str, str]  # what it is about, and what is said


def on_trouble(results: Results) -> list[Remark]:
    """What kept questions from being judged, each once, with the first question and the number of the others."""
    found: dict[str, list[str]] = {}
    for trouble in results.troubles:
        if trouble.kind == Outcome.TROUBLE:
            found.setdefault(_line(trouble), []).append(trouble.where)
    return [
        (Outcome.TROUBLE, f"{line} (asked: {where[0]}{f'; and {len(where) - 1} more' if len(where) > 1 else ''})")
        for line, where in found.items()
    ]


def on_failures(results: Results) -> list[Remark]:
    """On every wrong component, those first in which nothing else is wrong; the others only where there is news."""
    inner = suspects(results)
    remarks: list[Remark] = []
    for component in [*inner, *(name for name in wrong(results) if name not in inner)]:
        diagnosis = results.diagnoses.get(component)
        named = diagnosis.named if diagnosis else []
        if component not in inner:
            remarks += [(component, str(first)) for first in named[:1]]
            continue
        told = diagnosis.lines()[:1] if diagnosis else []
        remarks += [(component, line) for line in (*told, *_what(results, component))]
        if others := named[1:]:
            remarks.append((component, "or, less likely: " + "; ".join(other.title for other in others)))
    for component, kills in results.kills.items():
        if survivors := [name for name, sections in kills.items() if not sections]:
            remarks.append((component, f"mistakes that nothing here rejects: {', '.join(survivors)}"))
    return remarks + [
        ("", f"{trouble.where}: {_line(trouble)}") for trouble in troubles(results, Outcome.BROKEN, "")[:5]
    ]


def _what(results: Results, component: str) -> list[str]:
    """The worst answer and gradient, the broken properties, the first exception."""
    lines = []
    for section in (ANSWERS, GRADIENTS):
        judged = rows(results, component, section)
        differ = [row for row in judged if not row.within]
        if not differ and results.about.get("judged") == BIT_FOR_BIT:
            differ = [row for row in judged if not row.bitwise]
        if differ:
            lines.append(_worst(section, nearest(differ)))
    broken = [claim for claim, outcome in results.properties.get(component, {}).items() if outcome == Outcome.BROKEN]
    lines += [f"broken: {', '.join(broken)}"] if broken else []
    raised = troubles(results, Outcome.RAISED, component)
    lines += [f"raises with {raised[0].where}: {_line(raised[0])}"] if raised else []
    failed = troubles(results, Outcome.BROKEN, component)
    return lines or [f"{failed[0].where}: {_line(failed[0])}"]


def _worst(section: str, row: Row) -> str:
    what = "worst answer" if section == ANSWERS else "worst gradient"
    where = f"{what}: {row.label} ({row.variant}, {row.dtype})"
    return f"{where}: {short(row.error)} ulp off the formula, transformers {short(row.oracle_error)}"


def _line(trouble: Trouble) -> str:
    return " ".join(trouble.message.split())[:200]


def on_gaps(results: Results) -> list[Remark]:
    """What was not judged, and why."""
    about = asked(results)
    lacking: dict[str, list[str]] = {}
    for trouble in results.troubles:
        message = trouble.message.removeprefix(f"{Outcome.NOT_OFFERED}: ")
        if trouble.kind == Outcome.NOT_OFFERED and not _is_lacking(results, trouble.component, message):
            components = lacking.setdefault(message, [])
            components += [trouble.component] if trouble.component not in components else []
    remarks: list[Remark] = _outside(results)
    remarks += [
        (component, f"differs by convention, which is no fault: {told}; it was asked in its own layout")
        for component, told in results.conventions.items()
    ]
    if lacking:
        told = (f"{name} ({', '.join(filter(None, components))})" for name, components in lacking.items())
        remarks.append((Outcome.NOT_OFFERED, ", ".join(told)))
    if known := [trouble for trouble in results.troubles if trouble.kind == Outcome.KNOWN_FAILURE]:
        reasons = dict.fromkeys(_line(trouble) for trouble in known)
        remarks.append(("known failures", f"{len(known)}, as the adapter declares: {'; '.join(reasons)}"))
    remarks += [("remark", f"{component} {text}") for component, told in results.remarks.items() for text in told]
    for component, unasked in results.unasked.items():
        remarks += [("not asked", f"{component}: {len(those)} questions: {why}") for why, those in unasked.items()]
    without = [f"{name} ({NO_GRADIENTS[name]})" for name in about if name in NO_GRADIENTS]
    return remarks + ([("– no gradients", ", ".join(without))] if without else [])


def _is_lacking(results: Results, component: str, message: str) -> bool:
    """Whether the profile of the component says so already."""
    return message.partition(" (")[0] in results.lacking.get(component, {})


def _outside(results: Results) -> list[Remark]:
    """What the profiles leave out, draws that were refused, and which known mistakes none of the rest can show."""
    reasons: dict[str, list[str]] = {}
    for features in results.lacking.values():
        for feature, reason in features.items():
            told = reasons.setdefault(reason.removeprefix(f"{Outcome.NOT_OFFERED}: "), [])
            told += [feature] if feature not in told else []
    remarks: list[Remark] = []
    if reasons:
        lacking = (", ".join(features) + (f" ({reason})" if reason else "") for reason, features in reasons.items())
        remarks.append(("not asked", "; ".join(lacking)))
    if refused := [(name, claims) for name, claims in results.left_out.items() if claims]:
        told = [f"{name} {len(claims)}" for name, claims in refused]
        remarks.append(("properties of which some draws were refused", ", ".join(told)))
    if any(results.unseen.values()):
        counts = (f"{name} {len(unseen)}" for name, unseen in results.unseen.items() if unseen)
        remarks.append(("known mistakes that could not have been seen", ", ".join(counts)))
    return remarks


def on_numbers(results: Results) -> list[Remark]:
    """How to read the cells, where they hold more than counts."""
    compared = [cells(results, name)[:3] for name in asked(results)]  # formula, oracle, gradients
    remarks: list[Remark] = []
    if any(formula.outcome == Outcome.WITHIN for formula, _, _ in compared):
        remarks.append(("in brackets", "transformers' own error"))
    if any(cell.outcome in (Outcome.WITHIN, Outcome.WRONG) for row in compared for cell in row):
        claims = results.about.get("judged") == BIT_FOR_BIT
        bits = (
            "it claims transformers' bits, and has to have them"
            if claims
            else "equality is not required, since the adapter does not claim transformers' bits"
        )
        remarks.append(("oracle", bits))
        allowed = f"at most {FACTOR} × transformers' own error + {ULPS} ulp off the float64 formula"
        remarks.append(("the budget", allowed))
    return remarks
