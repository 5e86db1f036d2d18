"""The implementation under test, the comparisons that the tests ask for, and the table at the end of a run."""

from __future__ import annotations

import importlib
import importlib.util
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch
from torch import Tensor

from reference import budget, formula, oracle
from reference.budget import Verdict
from reference.cases import DTYPES, Case

TESTS = Path(__file__).parent
SHARED = TESTS.parent.parent / "shared" / "data"

# the same examples in every run: a failure is a change of the code, never of the dice
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        type=Path,
        default=TESTS / "adapters" / "ours.py",
        metavar="PATH",
        help="the adapter of the Llama to test (default: %(default)s); see reference/implementation.py",
    )


@pytest.fixture(scope="session")
def implementation(request: pytest.FixtureRequest) -> ModuleType:
    """The adapter named by --implementation."""
    path: Path = request.config.getoption("implementation").resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        pytest.exit(f"--implementation={path}: no such Python file", returncode=pytest.ExitCode.USAGE_ERROR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Comparison:
    """The verdicts on all answers of one component to one case."""

    name: str
    verdicts: list[Verdict]

    def must_be_bitwise(self) -> None:
        """Fails unless every answer has transformers' bits."""
        self._must(lambda verdict: verdict.bitwise)

    def must_be_within_budget(self) -> None:
        """Fails unless every answer is about as near to the formula as transformers' is."""
        self._must(lambda verdict: verdict.within)

    def _must(self, holds: Callable[[Verdict], bool]) -> None:
        __tracebackhide__ = True
        if wrong := [verdict for verdict in self.verdicts if not holds(verdict)]:
            lines = "\n  ".join(map(str, wrong))
            pytest.fail(
                f"{self.name}: {len(wrong)} of {len(self.verdicts)} answers are wrong\n  {lines}", pytrace=False
            )


VERDICTS = pytest.StashKey[dict[tuple[str, torch.dtype], list[Verdict]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICTS] = defaultdict(list)


@cache
def reference_answers(name: str, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What transformers and the formula answer; computed once, however many tests and implementations ask."""
    ask = importlib.import_module(f"reference.checks.{name}").ask
    with torch.no_grad():
        return ask(oracle, case), ask(formula, case)


@pytest.fixture(scope="session")
def compare(implementation: ModuleType, request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the implementation's answers, judged by transformers and the formula."""

    @cache
    def comparison(name: str, variant: str, dtype: torch.dtype) -> Comparison:
        case = Case(variant, dtype)
        with torch.no_grad():
            answers = importlib.import_module(f"reference.checks.{name}").ask(implementation, case)
        ours_and_reference = zip(answers.items(), *(a.values() for a in reference_answers(name, case)), strict=True)
        verdicts = [budget.judge(label, a, o, f, dtype) for (label, a), o, f in ours_and_reference]
        request.config.stash[VERDICTS][name, dtype] += verdicts
        return Comparison(f"{name}, {variant}", verdicts)

    return comparison


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real artefacts beside the checkout: a trained checkpoint, known answers."""
    if not SHARED.parent.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Component x dtype: bitwise, or the worst error beside transformers' own."""
    results = config.stash[VERDICTS]
    if not results:
        return
    terminalreporter.section("equality with transformers")
    names = list(dict.fromkeys(name for name, _ in results))
    header = "".join(f"{str(dtype).removeprefix('torch.'):>28}" for dtype in DTYPES)
    terminalreporter.line(f"{'component':<12}{header}   ({torch.__version__=!s}, errors against the float64 formula)")
    for name in names:
        cells = "".join(f"{_cell(results.get((name, dtype), [])):>28}" for dtype in DTYPES)
        terminalreporter.line(f"{name:<12}{cells}")


def _cell(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "not asked"
    if all(verdict.bitwise for verdict in verdicts):
        return f"bitwise ({len(verdicts)})"
    worst = max(verdicts, key=lambda v: (not v.within, not v.bitwise, v.error))
    tier = "within" if worst.within else "WRONG"
    return f"{tier} {worst.error:.3g} ulp, HF {worst.oracle_error:.3g}"


@pytest.fixture(scope="session")
def within_budget() -> Callable[[str, Case, str, Tensor], None]:
    """Called with (NAME, case, label, answer): fails unless the answer, however it was come by, is about as near to
    the formula's as transformers' one pass is.
    """

    def check(name: str, case: Case, label: str, answer: Tensor) -> None:
        theirs, exact = reference_answers(name, case)
        verdict = budget.judge(label, answer, theirs[label], exact[label], case.dtype)
        Comparison(name, [verdict]).must_be_within_budget()

    return check
