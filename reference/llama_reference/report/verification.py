"""What `llama-reference verify` found out about one checkpoint: as text for a terminal, and as values for a file."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from llama_reference.judge.localization import (
    Finding,
    culprits,
)
from llama_reference.judge.rounding import Rounding
from llama_reference.questions.activations import ATTENTION, MLP, NORM1, NORM2
from llama_reference.standard.outcome import Outcome

# in the order of execution: heading, NAME, module within the layer
COLUMNS = (
    ("input norm", "rms_norm", f".{NORM1}"),
    ("rotary", "rotary", f".{ATTENTION}"),
    ("attention", "attention", f".{ATTENTION}"),
    ("post norm", "rms_norm", f".{NORM2}"),
    ("swiglu", "swiglu", f".{MLP}"),
    ("block", "block", ""),
)
WORST_FIRST = (Outcome.WRONG, Outcome.NOT_OFFERED, Outcome.VOID, Outcome.WITHIN, Outcome.BITWISE)
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Verification:
    """The findings on every component, those on the run by the implementation's own activations (`running`), and what
    each culprit looks like, by component.
    """

    about: dict[str, str]  # directory, implementation, dtype, tokens, versions
    layers: list[int]  # those that were asked about
    findings: list[Finding]
    running: list[Finding]
    names: dict[str, str] = field(default_factory=dict)
    roundings: list[Rounding] = field(default_factory=list)
    same_tokens: tuple[int, int] | None = None  # the likeliest next ones: so many of so many

    @property
    def agrees(self) -> bool:
        return bool(self.findings) and all(finding.good for finding in self.findings)

    def worst(self, name: str, where: str) -> Finding | None:
        """The finding to show for one component; None if it could not be asked."""
        found = [finding for finding in self.findings if (finding.name, finding.where) == (name, where)]
        return min(found, key=lambda f: (WORST_FIRST.index(f.status), -error(f))) if found else None

    def row(self, layer: int) -> list[Finding | None]:
        return [self.worst(name, f"model.layers.{layer}{part}") for _, name, part in COLUMNS]

    def depth(self) -> list[Finding]:
        """The residual stream after every block, when the model runs on its own activations."""
        return [step for step in self.running if step.name == "block"]

    def summary(self) -> str:
        counts = Counter(finding.status for finding in self.findings)
        parts = [f"{counts[status]} {status}" for status in reversed(WORST_FIRST) if counts[status]]
        if not self.agrees:
            return f"NOT all answers agree: {', '.join(parts)}"
        bits = "its bits are transformers'" if len(counts) == 1 and counts[Outcome.BITWISE] else "rounded otherwise"
        return f"all answers agree ({bits}): {', '.join(parts)}"

    def conclusions(self) -> list[tuple[str, str]]:
        """(title, text): which components are to blame, and where a run on its own strays first."""
        bits = next((step for step in self.running if step.status != Outcome.BITWISE), None)
        beyond = next((step for step in self.running if not step.good), None)
        far = "the same" if beyond is bits and bits is not None else spoken(beyond)
        blamed = [("culprits", line) for line in _grouped(culprits(self.findings))] or [("culprits", "nothing")]
        blamed += [("known mistake", f"{name} {told}") for name, told in self.names.items()]
        lacking = [finding for finding in self.findings if finding.status in (Outcome.NOT_OFFERED, Outcome.VOID)]
        blamed += [("not judged", line) for line in _grouped(lacking)]
        blamed += [("rounding", str(rounding)) for rounding in self.roundings]
        if self.same_tokens is not None:
            blamed.append(("likeliest next tokens", "the same at {} of {} positions".format(*self.same_tokens)))
        return [*blamed, ("first difference in one pass", spoken(bits)), ("first beyond the budget in one pass", far)]

    def text(self) -> str:
        """The table by layer, then the conclusions."""
        head = [heading for heading, *_ in COLUMNS]
        rows = [[str(layer), *map(cell, self.row(layer)), *self._strayed(layer)] for layer in self.layers]
        lines = _aligned([["layer", *head, "alone", "HF"], *rows])
        for name, where in (("rms_norm", "model.norm"), ("llama", "logits")):
            lines.append(f"{where}: {cell(self.worst(name, where))}")
        errors = [error(step) for step in self.depth()]
        grows = f"{sparkline(errors)}  {_number(errors[0])} to {_number(errors[-1])} ulp" if errors else "not known"
        told = [*self.conclusions(), ("error by depth", grows), ("verdict", self.summary())]
        about = [f"{title}: {text}" for title, text in self.about.items()]
        return "\n".join([*about, "", *lines, "", *(f"{title}: {text}" for title, text in told)])

    def _strayed(self, layer: int) -> list[str]:
        step = next((step for step in self.depth() if step.layer == layer), None)
        if step is None or step.verdict is None:
            return ["-", "-"]
        return [_number(step.verdict.error), _number(step.verdict.oracle_error)]

    def values(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            **self.about,
            "agrees": self.agrees,
            "summary": self.summary(),
            "culprits": [_values(finding) for finding in culprits(self.findings)],
            "looks_like": self.names,
            "roundings": [asdict(rounding) for rounding in self.roundings],
            "same_tokens": self.same_tokens,
            "findings": [_values(finding) for finding in self.findings],
            "running": [_values(step) for step in self.running],
        }


def error(finding: Finding) -> float:
    """The error in units in the last place; infinite if there is no verdict."""
    return finding.verdict.error if finding.verdict else math.inf


def cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    if finding.verdict is None or finding.status == Outcome.BITWISE:
        return finding.status
    return (
        f"{_number(finding.verdict.error)} ulp"
        if finding.status == Outcome.WITHIN
        else f"WRONG {_number(error(finding))}"
    )


def spoken(step: Finding | None) -> str:
    return "none" if step is None else f"{step.name}, {step}"


def sparkline(errors: list[float]) -> str:
    """One bar a layer, on a logarithmic scale."""
    heights = [math.log2(1 + min(e, 1e30)) for e in errors]
    top = max(*heights, 1.0)
    return "".join(BARS[round(height / top * (len(BARS) - 1))] for height in heights)


def _grouped(findings: list[Finding]) -> list[str]:
    """A line for each component, however many layers have it, told by its first finding."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        tail = finding.where.removeprefix(f"model.layers.{finding.layer}")
        groups.setdefault((finding.name, tail), []).append(finding)
    lines = []
    for (name, _), group in groups.items():
        layers = sorted({finding.layer for finding in group if finding.layer is not None})
        place = f" of layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers else ""
        lines.append(f"{name}{place}: {group[0]}")
    return lines


def _values(finding: Finding) -> dict[str, Any]:
    verdict = finding.verdict
    numbers = {"error_ulp": verdict.error, "transformers_error_ulp": verdict.oracle_error} if verdict else {}
    return {
        **{key: getattr(finding, key) for key in ("layer", "name", "where", "how", "status")},
        **{key: number if math.isfinite(number) else str(number) for key, number in numbers.items()},
        "detail": str(finding),
    }


def _number(ulps: float) -> str:
    return f"{ulps:.3g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in rows]
