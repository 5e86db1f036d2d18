"""What this project adds to the suite's own fixtures: the tests of the suite itself, and real artefacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor

from llama_reference.judge import comparison
from llama_reference.standard import budget
from llama_reference.standard.cases import Case
from llama_reference.suite.fixtures import *  # noqa: F403
from llama_reference.suite.session import EXAMPLES, Comparison, Session
from tests.options import is_foreign

TESTS = Path(__file__).parent
OF_THE_SUITE = (
    "test_mistakes.py",
    "test_names.py",
    "test_decoding.py",
    "test_collection.py",
    "test_reference.py",
    "test_sensitivity.py",
    "test_blame.py",
    "test_report.py",
    "test_trouble.py",
    "test_false_alarms.py",
    "test_recognition.py",
    "test_planted.py",
    "test_properties.py",
    "test_kit_parity.py",
)
SHARED = TESTS.parent.parent / "shared" / "data"

# the same examples in every run: a failure is a change of the code, never of the dice
_profile = hypothesis.settings(deadline=None, derandomize=True, max_examples=EXAMPLES, database=None)
hypothesis.settings.register_profile("suite", _profile)
hypothesis.settings.register_profile("thorough", _profile, max_examples=20 * EXAMPLES)  # --hypothesis-profile=thorough
hypothesis.settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Tiny models: a second thread costs more than it brings."""
    if not config.getoption("benchmark_only"):
        torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Somebody else's Llama is asked the questions, not what this project asks of itself."""
    own = collection_path.is_relative_to(TESTS / "ours") or collection_path.name in OF_THE_SUITE
    return True if own and is_foreign(config) else None


@pytest.fixture(scope="session")
def within_budget(session: Session) -> Callable[[str, Case, str, Tensor], None]:
    """Called with (NAME, case, label, answer): fails unless the answer, however it was come by, is about as near to
    the formula's as transformers' one pass is.
    """

    def check(component: str, case: Case, label: str, answer: Tensor) -> None:
        theirs, exact = comparison.reference_answers(component, case)
        verdict = budget.judge(label, answer, theirs[label], exact[label], case.dtype)
        Comparison(component, session, [verdict]).must_be_within_budget()

    return check


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real artefacts beside the checkout: a trained checkpoint, known answers."""
    if not SHARED.parent.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED
