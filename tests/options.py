"""The options of a run. A plugin (pyproject.toml) and not a conftest.py: pytest looks for the first conftest.py before
it knows which words are values of options, so `--implementation my_adapter.py` made it look beside my_adapter.py only.
"""

from pathlib import Path

import pytest

OURS = Path(__file__).parent / "adapters" / "ours.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llama_scratch")
    group.addoption(
        "--implementation",
        type=Path,
        default=OURS,
        metavar="PATH",
        help="the adapter of the Llama to test (default: %(default)s); see reference/llama_reference/implementation.py",
    )
    group.addoption("--report", type=Path, metavar="DIR", help="write report.json and index.html there")
    group.addoption("--small", action="store_true", help="benchmark the smallest models only, one round")


def is_foreign(config: pytest.Config) -> bool:
    """Whether the run judges a Llama that is not this project's."""
    return config.getoption("implementation").resolve() != OURS
