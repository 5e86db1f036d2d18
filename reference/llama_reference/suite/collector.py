"""A pytest plugin that gathers the Results of a run, those of worker processes included, and shows them at its end."""

from __future__ import annotations

import re
import traceback
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.judge import error_growth
from llama_reference.mistakes.equivalent import EQUIVALENT
from llama_reference.questions.activations import Inputs, record
from llama_reference.questions.layer_checks import LayerChecks
from llama_reference.report import summary
from llama_reference.report import terminal as report
from llama_reference.report.results import (
    ANSWERS,
    GRADIENTS,
    PROPERTIES,
    Results,
    about,
)
from llama_reference.standard.cases import DTYPES, Case
from llama_reference.standard.oracle import build
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.session import told
from llama_reference.suite.survivor import Survivor
from llama_reference.suite.trouble import NoVerdict
from llama_reference.suite.watch import TIME_LIMIT, Watch

NOTHING = 2  # the exit status where nothing was judged, as of `llama-reference check`
PROPERTY = "property"  # under which a test records (component, claim)
SECTION = "section"  # under which it has (component, section)
CRASHED = "???"  # what pytest-xdist says of when a test ended that took its process with it
IN_TROUBLE = f"{NoVerdict.__name__}: {Outcome.TROUBLE}: "
FIXTURES = {"compare": ANSWERS, "compare_gradients": GRADIENTS}


class Collector:
    """Tests add to `results`; with pytest-xdist every worker has its own, handed over when it is done."""

    NAME = "llama_reference_results"

    def __init__(self, config: pytest.Config, path: Path, adapter: ModuleType) -> None:
        directory: Path | None = config.getoption("report")
        if directory is not None and any(p.exists() and not p.is_dir() for p in (directory, *directory.parents)):
            raise pytest.UsageError(f"--report: {directory}: a file is in the way of this directory")
        self.config = config
        self.adapter = adapter
        self.directory = directory
        self.results = Results(about(path, getattr(adapter, "BITWISE", False)))
        self.watch = Watch(config.getoption("time_limit"), config.getoption("question_limit"))
        self._handed_over = 0  # rows that the controller has already
        self.survivor: Survivor | None = None

    def pytest_sessionstart(self) -> None:
        """A crash of the only process must not leave a reader without a word."""
        if not hasattr(self.config, "workerinput") and not self.config.getoption("numprocesses", None):
            capture: Any = self.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled() if capture else nullcontext():  # it speaks to the terminal
                self.survivor = Survivor()
            self.survivor.tell(found=Results(self.results.about).values())

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """What a test is about; one that asks an implementation without a claim of its own is one itself."""
        component = item.path.stem.removeprefix("test_")
        fixtures = getattr(item, "fixturenames", ())
        if component not in mistakes.COMPONENTS or item.path.parent.name == "ours":
            return
        section = next((FIXTURES[name] for name in fixtures if name in FIXTURES), PROPERTIES)
        item.user_properties.append((SECTION, (component, section)))
        if section == PROPERTIES and "implementation" in fixtures and "hold" not in fixtures:
            name = getattr(item, "originalname", item.name).removeprefix("test_")
            item.user_properties.append((PROPERTY, (component, name)))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what is not to be asked any more."""
        component, _ = about_of(item)
        if component and self.survivor:
            self.survivor.tell(asks=item.nodeid)
        if component and (why := self.watch.reason(component)):
            self.results.leave_out(component, why, item.nodeid)
            if why.startswith(TIME_LIMIT):
                self.results.cut_short = why
            pytest.skip(f"not asked: {why}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """End a question that hangs."""
        component, _ = about_of(item)
        if not component:
            return (yield)
        with self.watch.question(component):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Outcomes of properties, and whatever did not pass: a skip is seen before the call, a failure in it."""
        found, recorded = outcome(report), report.user_properties
        found_now = Results.of(news) if (news := getattr(report, "news", None)) else Results()
        if report.when == CRASHED:
            ended = "the process ended, or was ended, while it was asked this"
            found_now.add_trouble(Outcome.TROUBLE, *of_node(report.nodeid), report.nodeid, ended)
            found = None
        if found is not None and (found != Outcome.HOLDS or report.when == "call"):
            for _, value in (pair for pair in recorded if pair[0] == PROPERTY):
                found_now.add_property(*_pair(value), found)
        if found not in (None, Outcome.HOLDS):
            about = next((_pair(value) for name, value in recorded if name == SECTION), ("", ""))
            found_now.add_trouble(Outcome(found), *about, report.nodeid, message(report))
        if self.survivor and found_now != Results():
            self.survivor.tell(found=found_now.values())
        if self.survivor or hasattr(self.config, "workerinput"):
            found_now.rows = []  # they are this very process's, and are there already
        self.results.merge(found_now)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A failure of the suite's own tests is told in a few lines; -vv shows pytest's traceback."""
        report = yield
        of_the_suite = any(name == SECTION for name, _ in item.user_properties)
        if report.failed and of_the_suite and call.excinfo is not None and self.config.get_verbosity() < 2:
            report.longrepr = concise(call.excinfo.value, self.adapter)
        if (self.survivor or hasattr(self.config, "workerinput")) and report.when == "call":
            results = self.results  # what was compared goes with every report: a crash loses no more than one
            news = Results(rows=results.rows[self._handed_over :], diagnoses=results.diagnoses, unasked=results.unasked)
            report.news = news.values()  # type: ignore[attr-defined]
            self._handed_over = len(results.rows)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """A wrong answer is counted as such: the summary tells it, and -v every one."""
        of_the_suite = any(name == SECTION for name, _ in report.user_properties)
        if report.when == "call" and report.failed and of_the_suite and self.config.get_verbosity() < 1:
            return ("trouble", "T", "TROUBLE") if outcome(report) == Outcome.TROUBLE else ("wrong", "F", "WRONG")
        return None

    def pytest_keyboard_interrupt(self) -> None:
        self.results.cut_short = "Ctrl-C"

    def pytest_unconfigure(self) -> None:
        if self.survivor:
            self.survivor.end()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that judged nothing, or was cut short, is no success."""
        alone = not hasattr(self.config, "workeroutput") and session.exitstatus == pytest.ExitCode.OK
        nothing = summary.asked(self.results) and summary.is_nothing_judged(self.results)
        if alone and (nothing or self.results.cut_short):
            session.exitstatus = NOTHING
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            results = self.results  # the controller sees the reports of all tests itself
            results.properties = {}
            results.rows = results.rows[self._handed_over :]
            results.troubles = [t for t in results.troubles if t.kind == Outcome.RAISED]
            output["results"] = results.values()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker is done. What one that crashed had compared is lost, which must not look like nothing to compare."""
        if values := getattr(node, "workeroutput", {}).get("results"):
            self.results.merge(Results.of(values))
        else:
            ended = "the process ended before it had said everything that it knew"
            self.results.add_trouble(Outcome.TROUBLE, "", "", f"worker {node.gateway.id}", ended)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        """The table, after the list of failed tests: the end of the output is read first."""
        if self.survivor:
            self.survivor.end()
        yield
        results = self.results
        if hasattr(self.config, "workeroutput"):  # a worker: its terminal is not shown
            return
        if not (
            results.rows
            or results.properties
            or results.kills
            or results.unasked
            or any(t.component for t in results.troubles)
        ):
            return
        terminalreporter.section("component by component")
        if results.kills:
            results.equivalents = equivalents()
        terminalreporter.write_line(report.table(results))
        if summary.asked(results) and summary.is_nothing_judged(results):
            terminalreporter.write_line(f"nothing was judged: {summary.why_nothing(results)}")
        if self.directory is not None:
            results.depth = dict(strayed(self.adapter))
            for path in report.write(results, self.directory):
                terminalreporter.write_line(f"written: {path}")


def about_of(item: pytest.Item) -> tuple[str, str]:
    """The component and section that a test is about; empty where it is none of the suite's."""
    return next((_pair(value) for name, value in item.user_properties if name == SECTION), ("", ""))


def of_node(nodeid: str) -> tuple[str, str]:
    """The same by the name of a test."""
    found = re.search(r"test_(\w+)\.py::Test(\w+)::", nodeid)
    return (found[1], found[2].lower()) if found and found[1] in mistakes.COMPONENTS else ("", "")


def _pair(value: Any) -> tuple[str, str]:
    first, second = value
    return first, second


def outcome(report: pytest.TestReport) -> Outcome | None:
    """None where a test was skipped for a reason of its own: neither passed nor anybody's lack."""
    if report.failed:
        return Outcome.TROUBLE if IN_TROUBLE in _crash(report) else Outcome.BROKEN
    if hasattr(report, "wasxfail"):
        return Outcome.KNOWN_FAILURE
    if report.skipped:
        return Outcome.NOT_OFFERED if message(report).startswith(Outcome.NOT_OFFERED) else None
    return Outcome.HOLDS


def message(report: pytest.TestReport) -> str:
    """Why: the error without its traceback, the reason of a skip, or that of a known failure."""
    if hasattr(report, "wasxfail") and not report.failed:
        return report.wasxfail.removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):  # of a skip; its text begins with the name of the exception
        return report.longrepr[2].partition(": ")[2]
    text = _crash(report)
    return text.partition(IN_TROUBLE)[2] if IN_TROUBLE in text else text.removeprefix("Failed: ")


def _crash(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else report.longreprtext


def concise(error: BaseException, adapter: ModuleType) -> str:
    """What went wrong, and the frames from the adapter on; those before it are of pytest, hypothesis and the suite."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == adapter.__file__), len(frames))
    return "".join([*traceback.format_list(frames[first:]), told(error)])


def equivalents() -> list[tuple[str, str, str]]:
    """Mistakes that nothing can tell from right: they are no mistakes, and not counted."""
    return [(known.component, known.name, known.why) for known in EQUIVALENT]


def strayed(adapter: Implementation) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """By dtype: how far off the hidden state of the hard model is after each layer, ours and transformers'."""
    for dtype in DTYPES:
        case = Case(dtype=dtype)
        with torch.no_grad():
            inputs = Inputs(case.tokens, case.positions, case.mask)
            recording = record(build(case.config, case.state, dtype), inputs)
        steps = error_growth.running(adapter, LayerChecks(case.config, case.state, dtype, recording, []))
        blocks = [step.verdict for step in steps if step.name == "block"]
        yield str(dtype).removeprefix("torch."), [(v.error, v.oracle_error) for v in blocks if v is not None]
