"""One model for all benchmarks, ours and transformers', and the tables at the end."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.workload import CONFIG, MEDIANS, PROVIDERS, B, T
from reference import oracle
from reference.cases import weights
from reference.implementation_loader import load

ADAPTER = Path(__file__).parent.parent / "tests" / "adapters" / "ours.py"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEDIANS] = defaultdict(lambda: defaultdict(dict))


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Medians side by side, and the ratio of the last to the first."""
    for title, rows in config.stash[MEDIANS].items():
        terminalreporter.section(f"{title} (medians, torch {torch.__version__})")
        columns = list(next(iter(rows.values())))
        terminalreporter.line(f"{'':<12}" + "".join(f"{name:>14}" for name in columns) + f"{'ratio':>10}")
        for row, cells in rows.items():
            if len(cells) == len(columns):
                values = "".join(f"{cells[name]:>14.3f}" for name in columns)
                terminalreporter.line(f"{row:<12}{values}{cells[columns[-1]] / cells[columns[0]]:>9.2f}x")
