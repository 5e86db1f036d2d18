"""Benchmarks are collected only with --benchmark-only, and a run that was to benchmark and timed nothing fails."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from xdist.scheduler import LoadScopeScheduling

from docs.commands import furnish
from docs.examples import BOOK, README
from tests.options import is_foreign

ROOT = Path(__file__).parent
BENCHMARKS = ROOT / "benchmarks"


def pytest_configure(config: pytest.Config) -> None:
    """Shapes are checked in tests; a benchmark must not pay for that. What tests decode by default is the textbook: no
    compiled step of this user's stands ready for it.
    """
    if not config.getoption("benchmark_only"):
        os.environ.setdefault("LLAMA_SCRATCH_CACHE_DIR", f"{tempfile.gettempdir()}/steps-{os.getpid()}")
    if config.getoption("benchmark_only"):
        jaxtyping.config.update("jaxtyping_disable", True)
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and is_foreign(config):
        config.args = [path for path in config.args if not is_of_the_book(ROOT / path)]


def is_of_the_book(path: Path) -> bool:
    """Whether a path is a page, or the folder of the pages: tests of this project's Llama, of no other."""
    return path.suffix == ".md" or path == ROOT / "docs"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process a core for tests, but none beside a benchmark."""
    return 0 if config.getoption("benchmark_only") or config.getoption("collectonly") else os.cpu_count() or 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tests of a class stay together: what they compare is worked out once. (As an option it disables benchmarks.)"""
    return LoadScopeScheduling(config, log)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The code blocks of docs/ and of the README are tests."""
    return BOOK.pytest()(file_path, parent) or README.pytest()(file_path, parent)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder to stand in, as the README's reader's: out/ from `make train`, texts, an adapter, another checkpoint."""
    folder = tmp_path_factory.mktemp("readme")
    furnish(folder)
    with contextlib.chdir(folder):
        yield


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves benchmarks/ out of any other run, and this project's book out of a run that judges another Llama."""
    benchmark = collection_path.is_relative_to(BENCHMARKS) and not config.getoption("benchmark_only")
    page = is_of_the_book(collection_path) and is_foreign(config)
    return True if benchmark or page else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many code blocks of README and book ran."""
    if ran := sum(".md::" in report.nodeid for report in terminalreporter.stats.get("passed", [])):
        terminalreporter.line(f"{ran} code blocks of README and book ran")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """pytest-benchmark skips what is no benchmark, so without this a run that timed nothing would pass."""
    config = session.config
    if config.getoption("benchmark_only") and not config.getoption("collectonly") and exitstatus == pytest.ExitCode.OK:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not reporter.stats.get("passed"):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
