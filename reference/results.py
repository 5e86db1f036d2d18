"""What a run of the suite has found out: plain values, which processes hand to each other and files keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from reference.budget import Verdict

HOLDS, BROKEN, KNOWN_FAILURE, NOT_OFFERED = "holds", "broken", "known failure", "not offered"
WORST_LAST = (HOLDS, NOT_OFFERED, KNOWN_FAILURE, BROKEN)


@dataclass(frozen=True)
class Row:
    """One comparison. section: "answers", judged by formula and oracle alike, or "gradients"; errors in ulps."""

    component: str
    section: str
    variant: str
    dtype: str
    label: str
    bitwise: bool
    within: bool
    error: float
    oracle_error: float


@dataclass
class Results:
    """Everything by component.

    properties: component -> claim -> HOLDS, BROKEN, KNOWN_FAILURE or NOT_OFFERED. kills: component -> mistake -> the
    sections that reject it. diagnoses: component -> the known mistakes that its wrong answers look like, in words.
    """

    about: dict[str, str] = field(default_factory=dict)  # implementation, versions
    rows: list[Row] = field(default_factory=list)
    properties: dict[str, dict[str, str]] = field(default_factory=dict)
    kills: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    diagnoses: dict[str, list[str]] = field(default_factory=dict)

    def add(self, component: str, section: str, variant: str, verdicts: Iterable[Verdict]) -> None:
        for v in verdicts:
            dtype = str(v.dtype).removeprefix("torch.")
            self.rows.append(
                Row(component, section, variant, dtype, v.label, v.bitwise, v.within, v.error, v.oracle_error)
            )

    def add_property(self, component: str, claim: str, outcome: str) -> None:
        """A claim that is tested on several variants is worth what the worst of them is."""
        claims = self.properties.setdefault(component, {})
        claims[claim] = max(outcome, claims.get(claim, HOLDS), key=WORST_LAST.index)

    def merge(self, other: Results) -> None:
        """Takes over what another process has found."""
        self.about |= other.about
        self.rows += other.rows
        for component, claims in other.properties.items():
            for claim, outcome in claims.items():
                self.add_property(component, claim, outcome)
        for component, kills in other.kills.items():
            self.kills.setdefault(component, {}).update(kills)
        self.diagnoses |= other.diagnoses

    def values(self) -> dict[str, Any]:
        """Built-in types only."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Results:
        """The inverse of `values`."""
        return cls(**values | {"rows": [Row(**row) for row in values["rows"]]})
