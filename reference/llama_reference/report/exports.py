"""The Results of a run in the forms that other programs read: JUnit's XML, and the JSON of a badge."""

from __future__ import annotations

import json
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from llama_reference.report.results import (
    Results,
)
from llama_reference.report.summary import asked, is_judged, is_right
from llama_reference.standard.outcome import Outcome

COLORS = {True: "brightgreen", False: "red"}


def badge(results: Results) -> str:
    """An endpoint badge of shields.io: how many of the judged components are right."""
    judged = [name for name in asked(results) if is_judged(results, name)]
    right = [name for name in judged if is_right(results, name)]
    message = f"{len(right)} of {len(judged)} components right" if judged else "not judged"
    color = COLORS[len(right) == len(judged)] if judged else "lightgrey"
    content = {"schemaVersion": 1, "label": "llama_reference", "message": message, "color": color}
    return json.dumps(content, indent=1) + "\n"


def junit(results: Results) -> str:
    """A test suite for each component: a case for each comparison and each property."""
    root = Element("testsuites", name=results.about.get("implementation", ""))
    for name in asked(results):
        cases = _cases(results, name)
        failures = sum(case.find("failure") is not None for case in cases)
        skipped = sum(case.find("skipped") is not None for case in cases)
        errors = sum(case.find("error") is not None for case in cases)
        counts = {"tests": len(cases), "failures": failures, "errors": errors, "skipped": skipped}
        suite = SubElement(root, "testsuite", {"name": name} | {key: str(n) for key, n in counts.items()})
        suite.extend(cases)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(results: Results, component: str) -> list[Element]:
    found = []
    for row in results.rows:
        if row.component == component:
            name = f"{row.section}: {row.variant}, {row.dtype}: {row.label}"
            wrong = f"off by {row.error:.3g} ulp, transformers by {row.oracle_error:.3g}"
            found.append(_case(component, name, Outcome.HOLDS if row.within else Outcome.BROKEN, wrong))
    for claim, outcome in results.properties.get(component, {}).items():
        found.append(_case(component, f"property: {claim}", outcome, f"the property {claim} is {outcome}"))
    for trouble in results.troubles:
        if (
            trouble.component == component
            and trouble.kind in (Outcome.RAISED, Outcome.NOT_OFFERED, Outcome.TROUBLE)
            and trouble.section != "properties"
        ):
            found.append(_case(component, trouble.where, trouble.kind, trouble.message))
    return found


def _case(component: str, name: str, outcome: Outcome, message: str) -> Element:
    case = Element("testcase", classname=component, name=name)
    if outcome in (Outcome.BROKEN, Outcome.RAISED):
        SubElement(case, "failure", message=message)
    elif outcome == Outcome.TROUBLE:
        SubElement(case, "error", message=message)
    elif outcome in (Outcome.NOT_OFFERED, Outcome.KNOWN_FAILURE):
        SubElement(case, "skipped", message=message)
    return case
