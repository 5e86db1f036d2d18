"""The options of this project's own runs, in a plugin that pyproject.toml names: pytest reads the options of plugins
before it looks for the first conftest.py.
"""

from pathlib import Path

import pytest

OURS = Path(__file__).parent / "adapters" / "ours.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, for benchmarks."""
    parser.getgroup("llama_scratch").addoption(
        "--small", action="store_true", help="benchmark the smallest models only, one round"
    )


def is_foreign(config: pytest.Config) -> bool:
    """Whether the run judges a Llama that is not this project's."""
    path: Path | None = config.getoption("implementation")
    return path is not None and path.resolve() != OURS
