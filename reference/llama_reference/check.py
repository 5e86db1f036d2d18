"""Judge a Llama through its adapter, component by component: `llama-reference check ADAPTER.py`.

Exit status: 0 everything judged is right, 1 something is wrong, 2 nothing, or not everything, could be judged: the
adapter cannot be run, something is in trouble, or the run was cut short.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from llama_reference.command_line import UsageError, check_output_file
from llama_reference.report import exports, suite_page, terminal
from llama_reference.report.files import write
from llama_reference.report.results import Results
from llama_reference.report.summary import is_nothing_judged, verdict, why_nothing, wrong
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.plan import chosen
from llama_reference.suite.runner import Limits, run

RIGHT, WRONG, UNJUDGED = 0, 1, 2  # the exit statuses


@dataclass(frozen=True)
class Check:
    """Judge a Llama through its adapter, component by component."""

    adapter: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ADAPTER.py")]
    """The adapter: a Python file with the functions that `llama-reference template` shows."""
    component: tuple[str, ...] = ()
    """Components to judge; without it, all."""
    quick: bool = False
    """Ask fewer dtypes and gradients: every variant in float32, the hard one in all dtypes."""
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Components to judge at the same time."""
    time_limit: float | None = None
    """Seconds, from the first question on, after which the run ends with the verdict so far."""
    question_limit: float = 300.0
    """Seconds that one question may take; one that takes longer is told, and its component asked no more."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """List every failure after the table."""
    json: Path | None = None
    """Write every answer and verdict as JSON."""
    html: Path | None = None
    """Write one self-contained page."""
    junit: Path | None = None
    """Write the verdicts as JUnit XML."""
    badge: Path | None = None
    """Write an endpoint badge for shields.io."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        self._check()
        components = chosen(self.component)
        limits = Limits(self.time_limit, self.question_limit)
        results = run(self.adapter, components, self.quick, self.processes, limits, sys.stderr.isatty())
        print(terminal.table(results))
        if self.verbose:
            print(failures(results))
        self._write(results)
        if is_nothing_judged(results) and not results.cut_short:
            raise UsageError(f"{self.adapter}: nothing was judged: {why_nothing(results)}")
        return status(results)

    def _check(self) -> None:
        """Raise UsageError before the work rather than after it."""
        if not self.adapter.is_file():
            raise UsageError(f"{self.adapter}: no such file; `llama-reference template` writes one to start from")
        if self.processes < 1:
            raise UsageError(f"--processes is {self.processes}, expected 1 or more")
        for name in ("time_limit", "question_limit"):
            if (seconds := getattr(self, name)) is not None and seconds <= 0:
                raise UsageError(f"--{name.replace('_', '-')} is {seconds:g}, expected seconds, more than 0")
        for name in ("json", "html", "junit", "badge"):
            check_output_file(f"--{name}", getattr(self, name))

    def _write(self, results: Results) -> None:
        writers = {
            "json": terminal.as_json,
            "html": suite_page.render,
            "junit": exports.junit,
            "badge": exports.badge,
        }
        for name, render in writers.items():
            path: Path | None = getattr(self, name)
            if path is not None:
                write(path, render(results))
                print(f"written: {path}")


def status(results: Results) -> int:
    """The exit status that a run ends with."""
    if wrong(results) or any(trouble.kind == Outcome.BROKEN for trouble in results.troubles):
        return WRONG
    return RIGHT if verdict(results)[0] else UNJUDGED


def failures(results: Results) -> str:
    """Everything that did not simply pass, one paragraph each."""
    return "\n".join(f"\n{trouble.where}\n  {trouble.kind}: {trouble.message}" for trouble in results.troubles)
