"""A pytest plugin that gathers the Results of a run, those of worker processes included, and shows them at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from reference import report
from reference.results import BROKEN, HOLDS, KNOWN_FAILURE, NOT_OFFERED, Results

PROPERTY = "property"  # under which a test records (component, claim)


class Collector:
    """Tests add to `results`; with pytest-xdist every worker has its own, handed over when it is done."""

    NAME = "llama_scratch_results"

    def __init__(self, config: pytest.Config, implementation: str, directory: Path | None) -> None:
        self.config, self.directory = config, directory
        versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
        self.results = Results({"implementation": implementation, **versions})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Outcomes of properties: a skip is seen before the call, a failure in it."""
        recorded: Any = [value for name, value in report.user_properties if name == PROPERTY]
        if report.when == "call" or report.skipped:
            for component, claim in recorded:
                self.results.add_property(component, claim, outcome(report))

    def pytest_sessionfinish(self) -> None:
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            self.results.properties = {}  # the controller sees the reports of all workers itself
            output["results"] = self.results.values()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker is done; one that crashed hands over nothing."""
        if values := getattr(node, "workeroutput", {}).get("results"):
            self.results.merge(Results.of(values))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.results.rows:
            return
        terminalreporter.section("component by component")
        terminalreporter.write_line(report.table(self.results))
        if self.directory is not None:
            for path in report.write(self.results, self.directory):
                terminalreporter.write_line(f"written: {path}")


def outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return KNOWN_FAILURE
    return HOLDS if report.passed else NOT_OFFERED if report.skipped else BROKEN
