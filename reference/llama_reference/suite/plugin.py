"""The pytest plugin of an installed kit: it does nothing until --implementation names an adapter.

What needs torch is imported only then, since this file is imported whenever pytest starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options, under a heading of their own."""
    group = parser.getgroup("llama_reference", "a Llama judged component by component")
    group.addoption("--implementation", type=Path, metavar="PATH", help="the adapter of the Llama to test")
    group.addoption("--report", type=Path, metavar="DIR", help="write report.json and index.html there")
    group.addoption("--time-limit", type=float, metavar="SECONDS", help="ask nothing more after so many seconds")
    group.addoption(
        "--question-limit", type=float, metavar="SECONDS", default=300.0, help="end a question that takes longer (300)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the adapter, and collect the results of the run. One that cannot be run ends it, with exit status 2."""
    path: Path | None = config.getoption("implementation")
    if path is None:
        return
    from llama_reference.adapter_loader import AdapterError, load
    from llama_reference.suite.collector import Collector
    from llama_reference.suite.worker import must_build

    try:
        adapter: ModuleType = load(path)
        if not hasattr(config, "workerinput"):  # the processes that pytest-xdist starts need not try it again
            must_build(adapter, path)
    except AdapterError as error:
        pytest.exit("\n".join(filter(None, (error.details, f"error: --implementation: {error}"))), returncode=2)
    collector = Collector(config, path, adapter)
    config.pluginmanager.register(collector, Collector.NAME)


def known_failures(config: pytest.Config) -> dict[str, str]:
    """What the adapter declares to be wrong: part of a test's name -> why."""
    collector: Any = config.pluginmanager.get_plugin("llama_reference_results")
    return getattr(collector.adapter, "KNOWN_FAILURES", {}) if collector else {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What an adapter declares as KNOWN_FAILURES must fail."""
    for part, reason in known_failures(config).items():
        for item in items:
            if part in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
