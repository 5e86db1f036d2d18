"""One model for all benchmarks, ours and transformers', and the tables at the end."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.workload import CONFIG, MEDIANS, PROVIDERS, TABLES, B, T
from llama_reference.adapter_loader import load
from llama_reference.standard import oracle
from llama_reference.standard.cases import weights

ADAPTER = Path(__file__).parent.parent / "tests" / "adapters" / "ours.py"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEDIANS] = defaultdict(lambda: defaultdict(dict))
    config.stash[TABLES] = defaultdict(dict)
    config.addinivalue_line("markers", "large: a benchmark of a model that takes minutes; not with --small")


@pytest.fixture(scope="session")
def models() -> dict[str, tuple[Any, Any]]:
    """provider -> its functions, and the model that they take."""
    state = weights(CONFIG, seed=0)
    sources = {"ours": load(ADAPTER), "transformers": oracle}
    return {name: (source, source.build(CONFIG, state, torch.float32)) for name, source in sources.items()}


@pytest.fixture
def hidden() -> torch.Tensor:
    """A residual stream (B, T, D)."""
    return torch.randn(B, T, CONFIG["hidden_size"], generator=torch.Generator().manual_seed(0))


@pytest.fixture
def positions() -> torch.Tensor:
    return torch.arange(T).expand(B, T)


@pytest.fixture
def measure(benchmark, request, models):
    """Called with (component, provider, call): `call(functions, model)` must answer alike for all, then is timed."""

    def run(component: str, provider: str, call) -> None:
        with torch.no_grad():
            answers = [call(*models[name]) for name in PROVIDERS]
            assert torch.equal(*answers), "a fast wrong answer is no result"
            benchmark.group = component
            benchmark.extra_info["torch"] = torch.__version__
            benchmark(call, *models[provider])
        request.config.stash[MEDIANS]["forward pass, ms"][component][provider] = benchmark.stats.stats.median * 1e3

    return run


class Tell:
    """Says what is predicted before it is measured, and keeps rows for the tables at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __call__(self, line: str) -> None:
        with self._config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    def row(self, table: str, row: str, cells: dict[str, str]) -> None:
        self._config.stash[TABLES][table][row] = cells


@pytest.fixture
def tell(request) -> Tell:
    return Tell(request.config)


@pytest.fixture
def rounds(request) -> int:
    return 1 if request.config.getoption("--small") else 7


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--small"):
        skip = pytest.mark.skip(reason="--small")
        for item in items:
            if item.get_closest_marker("large"):
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Medians side by side."""
    for title, rows in config.stash[MEDIANS].items():
        columns = [*max(rows.values(), key=len)]
        for row, cells in rows.items():
            if len(cells) == len(columns):
                ratio = {f"{columns[-1]} / {columns[0]}": f"{cells[columns[-1]] / cells[columns[0]]:.2f}"}
                config.stash[TABLES][title][row] = {name: f"{cells[name]:.3f}" for name in columns} | ratio
    for title, rows in config.stash[TABLES].items():
        terminalreporter.section(f"{title} (medians, torch {torch.__version__})")
        columns = list(next(iter(rows.values())))
        first = max(map(len, rows)) + 2
        terminalreporter.line(" " * first + "".join(f"{name:>{len(name) + 3}}" for name in columns))
        for row, cells in rows.items():
            terminalreporter.line(f"{row:<{first}}" + "".join(f"{cells[name]:>{len(name) + 3}}" for name in columns))
