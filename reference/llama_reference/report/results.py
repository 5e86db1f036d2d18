"""What a run of the suite has found out: plain values, which processes hand to each other and files keep."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from llama_reference.standard.budget import Verdict
from llama_reference.standard.outcome import Outcome

WORST_LAST = (Outcome.HOLDS, Outcome.NOT_OFFERED, Outcome.KNOWN_FAILURE, Outcome.TROUBLE, Outcome.BROKEN)
ANSWERS, GRADIENTS, PROPERTIES = "answers", "gradients", "properties"
BIT_FOR_BIT, BY_BUDGET = "bit for bit", "by budget"  # how answers are judged: about["judged"]
VERSIONS = ("llama_reference", "torch", "transformers", "python")  # of these, about has the version


@dataclass(frozen=True)
class Row:
    """One comparison. section: ANSWERS, judged by formula and oracle alike, or GRADIENTS; errors in ulps."""

    component: str
    section: str
    variant: str
    dtype: str
    label: str
    bitwise: bool
    within: bool
    error: float
    oracle_error: float


@dataclass(frozen=True)
class Trouble:
    """What did not simply pass. kind: BROKEN, KNOWN_FAILURE or NOT_OFFERED of a test, RAISED of a comparison, or
    TROUBLE.
    """

    kind: Outcome
    component: str  # empty where a test belongs to none
    section: str
    where: str  # the test, or the case
    message: str


@dataclass(frozen=True)
class Named:
    """A known mistake that wrong answers look like, or two at once: "looks like `theta_10000` (within rounding)"."""

    title: str
    why: str

    def __str__(self) -> str:
        return f"{self.title}: {self.why}"


@dataclass(frozen=True)
class Diagnosis:
    """The known mistakes that a component's wrong answers look like, the nearest first; where there is none, what else
    is known of the answers.
    """

    named: list[Named] = field(default_factory=list)
    otherwise: str = ""

    def lines(self) -> list[str]:
        return [*map(str, self.named)] or [self.otherwise]


@dataclass
class Results:
    """Everything by component.

    properties: component -> claim -> HOLDS, BROKEN, KNOWN_FAILURE, TROUBLE or NOT_OFFERED. left_out: component -> claim
    -> how many of its draws were refused. kills: component -> mistake -> the sections that reject it. equivalents:
    (component, mistake, why nothing can tell it from right). lacking: component -> the features that it lacks, and why.
    unseen: component -> the known mistakes that nothing rejects which it was asked. diagnoses: component -> what
    its wrong answers look like. conventions: component -> how it differs from ours and is
    right. depth: dtype -> the errors of the hidden state after each layer of the hard model, the implementation's and
    transformers'. remarks: component -> what is no fault but worth knowing. unasked: component -> a reason -> the
    questions that were not asked for it. cut_short: what ended the run before all was asked, if it did.
    """

    about: dict[str, str] = field(default_factory=dict)  # what `about` returns
    rows: list[Row] = field(default_factory=list)
    properties: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    kills: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    equivalents: list[tuple[str, str, str]] = field(default_factory=list)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    unseen: dict[str, list[str]] = field(default_factory=dict)
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    depth: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    unasked: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    cut_short: str = ""

    def add(self, component: str, section: str, variant: str, verdicts: Iterable[Verdict]) -> None:
        for v in verdicts:
            dtype = str(v.dtype).removeprefix("torch.")
            self.rows.append(
                Row(component, section, variant, dtype, v.label, v.bitwise, v.within, v.error, v.oracle_error)
            )

    def add_property(self, component: str, claim: str, outcome: Outcome) -> None:
        """A claim that is tested on several variants is worth what the worst of them is."""
        claims = self.properties.setdefault(component, {})
        claims[claim] = max(outcome, claims.get(claim, Outcome.HOLDS), key=WORST_LAST.index)

    def add_trouble(self, kind: Outcome, component: str, section: str, where: str, message: str) -> None:
        """Once, however many tests ask for the same comparison."""
        trouble = Trouble(kind, component, section, where, message)
        if trouble not in self.troubles:
            self.troubles.append(trouble)

    def add_remark(self, component: str, remark: str) -> None:
        """Once."""
        told = self.remarks.setdefault(component, [])
        told += [remark] if remark not in told else []

    def leave_out(self, component: str, why: str, question: str) -> None:
        """A question that is not asked, once."""
        left_out = self.unasked.setdefault(component, {})
        if not any(question in questions for questions in left_out.values()):
            left_out.setdefault(why, []).append(question)

    def of_component(self, name: str) -> Results:
        """What is known of one component."""
        return Results(
            rows=[row for row in self.rows if row.component == name],
            properties={name: self.properties.get(name, {})},
            lacking={name: self.lacking[name]} if name in self.lacking else {},
            troubles=[trouble for trouble in self.troubles if trouble.component == name],
        )

    def merge(self, other: Results) -> None:
        """Takes over what another process has found."""
        self.about |= other.about
        self.rows += other.rows
        for component, claims in other.properties.items():
            for claim, outcome in claims.items():
                self.add_property(component, claim, outcome)
        for component, kills in other.kills.items():
            self.kills.setdefault(component, {}).update(kills)
        self.equivalents += [known for known in other.equivalents if known not in self.equivalents]
        self.lacking |= other.lacking
        self.unseen |= other.unseen
        for component, claims_left_out in other.left_out.items():
            self.left_out.setdefault(component, {}).update(claims_left_out)
        self.diagnoses |= other.diagnoses
        self.conventions |= other.conventions
        self.troubles += [trouble for trouble in other.troubles if trouble not in self.troubles]
        self.depth |= other.depth
        for component, reasons in other.unasked.items():
            for why, questions in reasons.items():
                for question in questions:
                    self.leave_out(component, why, question)
        for component, remarks in other.remarks.items():
            for remark in remarks:
                self.add_remark(component, remark)
        self.cut_short = self.cut_short or other.cut_short

    def values(self) -> dict[str, Any]:
        """What JSON knows, and no more: errors that are not finite are strings."""
        values = asdict(self)
        for row in values["rows"]:
            row |= {name: _plain(row[name]) for name in ("error", "oracle_error")}
        values["depth"] = {dtype: [[*map(_plain, step)] for step in steps] for dtype, steps in self.depth.items()}
        for trouble in values["troubles"]:
            trouble["kind"] = trouble["kind"].value
        values["properties"] = {
            component: {claim: outcome.value for claim, outcome in claims.items()}
            for component, claims in self.properties.items()
        }
        values["equivalents"] = [[*known] for known in self.equivalents]
        return values

    @classmethod
    def of(cls, values: dict[str, Any]) -> Results:
        """The inverse of `values`."""
        rows = [Row(**row) for row in values["rows"]]
        troubles = [Trouble(**trouble | {"kind": Outcome(trouble["kind"])}) for trouble in values["troubles"]]
        properties = {
            component: {claim: Outcome(outcome) for claim, outcome in claims.items()}
            for component, claims in values["properties"].items()
        }
        diagnoses = {
            component: Diagnosis([Named(**named) for named in known["named"]], known["otherwise"])
            for component, known in values["diagnoses"].items()
        }
        return cls(**values | {
            "rows": [replace(row, error=float(row.error), oracle_error=float(row.oracle_error)) for row in rows],
            "troubles": troubles,
            "properties": properties,
            "diagnoses": diagnoses,
            "equivalents": [(component, name, why) for component, name, why in values["equivalents"]],
            "depth": {d: [(float(e), float(theirs)) for e, theirs in s] for d, s in values["depth"].items()},
        })  # fmt: skip


def about(adapter: object, bitwise: bool) -> dict[str, str]:
    """What a report says of its run: what is judged, how, when and with which versions."""
    return {
        "implementation": str(adapter),
        "judged": BIT_FOR_BIT if bitwise else BY_BUDGET,
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "llama_reference": version("llama_scratch"),  # the distribution that it is a part of
        "torch": str(torch.__version__),  # with its build: +cpu, +cu132
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def _plain(error: float) -> float | str:
    return error if math.isfinite(error) else str(error)
