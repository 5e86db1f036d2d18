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


def pytest_configure(config: pytest.Config) -> None:
    """Load the adapter, and collect the results of the run."""
    path: Path | None = config.getoption("implementation")
    if path is None:
        return
    from llama_reference.adapter_loader import load
    from llama_reference.standard.profile import FULL, restricted
    from llama_reference.suite.collector import Collector

    try:
        adapter: ModuleType = load(path)
        restricted(FULL, getattr(adapter, "SUPPORTS", {}))
    except ImportError as error:
        raise pytest.UsageError(f"--implementation: {error}") from None
    except ValueError as error:
        raise pytest.UsageError(f"--implementation: {path}: {error}") from None
    collector = Collector(config, path, adapter, config.getoption("report"))
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
