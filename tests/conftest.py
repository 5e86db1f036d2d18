"""The implementation under test, the comparisons that the tests ask for, and the table at the end of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor

from reference import budget, mistakes, power
from reference.budget import Verdict
from reference.cases import DTYPES, Case
from reference.implementation import Implementation
from reference.implementation_loader import load

TESTS = Path(__file__).parent
OURS = TESTS / "adapters" / "ours.py"
OF_THE_SUITE = ("test_mistakes.py", "test_names.py", "test_collection.py", "test_reference.py", "test_sensitivity.py",
                "test_blame.py")  # fmt: skip
ADAPTER = pytest.StashKey[ModuleType]()
SHARED = TESTS.parent.parent / "shared" / "data"

# the same examples in every run: a failure is a change of the code, never of the dice
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25, database=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        type=Path,
        default=OURS,
        metavar="PATH",
        help="the adapter of the Llama to test (default: %(default)s); see reference/implementation.py",
    )


class Offered:
    """An adapter whose missing functions skip the test that asks for them: not offered is not passed."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.bitwise: bool = getattr(module, "BITWISE", False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in vars(Implementation):
            raise AttributeError(name)
        function = getattr(self._module, name, None)
        if function is None:
            pytest.skip(f"not offered: {name}")

        def offered(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except NotImplementedError:
                pytest.skip(f"not offered: {name}")

        return offered


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Somebody else's Llama is asked the questions, not what this project asks of itself."""
    foreign = config.getoption("implementation").resolve() != OURS
    own = collection_path.is_relative_to(TESTS / "ours") or collection_path.name in OF_THE_SUITE
    return True if foreign and own else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What an adapter declares as KNOWN_FAILURES must fail."""
    known: dict[str, str] = getattr(config.stash[ADAPTER], "KNOWN_FAILURES", {})
    for item in items:
        for part, reason in known.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def implementation(request: pytest.FixtureRequest) -> Offered:
    """The adapter named by --implementation."""
    return Offered(request.config.stash[ADAPTER])


@dataclass(frozen=True)
class Comparison:
    """The verdicts on all answers of one component to one case."""

    component: str
    implementation: Offered
    verdicts: list[Verdict]

    def must_be_bitwise(self) -> None:
        """Fails unless every answer has transformers' bits."""
        __tracebackhide__ = True
        if not self.implementation.bitwise:
            pytest.skip("the adapter does not claim transformers' bits: judged by budget")
        self._must([verdict for verdict in self.verdicts if not verdict.bitwise])

    def must_be_within_budget(self) -> None:
        """Fails unless every answer is about as near to the formula as transformers' is."""
        __tracebackhide__ = True
        self._must([verdict for verdict in self.verdicts if not verdict.within])

    def _must(self, wrong: list[Verdict]) -> None:
        """Says what is wrong, and which known mistake it looks like."""
        __tracebackhide__ = True
        if wrong:
            lines = [f"{self.component}: {len(wrong)} of {len(self.verdicts)} answers are wrong", *map(str, wrong[:5])]
            lines += [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
            pytest.fail("\n  ".join([*lines, *diagnosis(self.component, self.implementation)]), pytrace=False)


@cache
def diagnosis(component: str, implementation: Offered) -> list[str]:
    """The nearest known mistakes, in words; worked out once, however many tests fail."""
    likenesses = power.looks_like(component, implementation) if component in mistakes.COMPONENTS else []
    return [str(likeness) for likeness in likenesses[:3]] or ["no known mistake gives these answers"]


VERDICTS = pytest.StashKey[dict[tuple[str, torch.dtype], list[Verdict]]]()
KILLS = pytest.StashKey[dict[tuple[str, str], set[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    try:
        config.stash[ADAPTER] = load(config.getoption("implementation"))
    except ImportError as error:
        raise pytest.UsageError(f"--implementation: {error}") from None
    if not config.getoption("benchmark_only"):
        torch.set_num_threads(
            1
        )  # the models are tiny: a second thread costs more than it brings, and far more when busy
    config.stash[VERDICTS] = defaultdict(list)
    config.stash[KILLS] = {}


@pytest.fixture(scope="session")
def compare(implementation: Offered, request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the implementation's answers, judged by transformers and the formula."""

    @cache
    def comparison(component: str, variant: str, dtype: torch.dtype) -> Comparison:
        case = Case(variant, dtype)
        verdicts = power.verdicts(component, case, power.ask(component, implementation, case))
        request.config.stash[VERDICTS][component, dtype] += verdicts
        return Comparison(component, implementation, verdicts)

    return comparison


@pytest.fixture(scope="session")
def compare_gradients(implementation: Offered, request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the implementation's gradients, judged by transformers' and exact ones."""

    @cache
    def comparison(component: str, variant: str, dtype: torch.dtype) -> Comparison:
        verdicts = power.gradient_verdicts(component, implementation, variant, dtype)
        request.config.stash[VERDICTS][f"{component}, gradients", dtype] += verdicts
        return Comparison(component, implementation, verdicts)

    return comparison


@pytest.fixture(scope="session")
def within_budget(implementation: Offered) -> Callable[[str, Case, str, Tensor], None]:
    """Called with (NAME, case, label, answer): fails unless the answer, however it was come by, is about as near to
    the formula's as transformers' one pass is.
    """

    def check(component: str, case: Case, label: str, answer: Tensor) -> None:
        theirs, exact = power.reference(component, case)
        verdict = budget.judge(label, answer, theirs[label], exact[label], case.dtype)
        Comparison(component, implementation, [verdict]).must_be_within_budget()

    return check


@pytest.fixture(scope="session")
def kill_matrix(request: pytest.FixtureRequest) -> dict[tuple[str, str], set[str]]:
    """(component, mistake) -> the sections that reject it."""
    return request.config.stash[KILLS]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real artefacts beside the checkout: a trained checkpoint, known answers."""
    if not SHARED.parent.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Component x dtype: bitwise, or the worst error beside transformers' own; and the mistakes rejected."""
    results = config.stash[VERDICTS]
    if results:
        terminalreporter.section("equality with transformers")
        header = "".join(f"{str(dtype).removeprefix('torch.'):>28}" for dtype in DTYPES)
        terminalreporter.line(f"{'component':<21}{header}   (torch {torch.__version__})")
        for name in dict.fromkeys(name for name, _ in results):
            cells = "".join(f"{_cell(results.get((name, dtype), [])):>28}" for dtype in DTYPES)
            terminalreporter.line(f"{name:<21}{cells}")
    if kills := config.stash[KILLS]:
        terminalreporter.section("known mistakes rejected, and by which section")
        terminalreporter.line(
            f"{'component':<21}{'rejected':>10}{'by formula':>12}{'by oracle':>12}{'by gradients':>14}"
        )
        for component in dict.fromkeys(component for component, _ in kills):
            rows = [found for (owner, _), found in kills.items() if owner == component]
            by = [sum(section in found for found in rows) for section in ("formula", "oracle", "gradients")]
            share = f"{sum(map(bool, rows))}/{len(rows)}"
            terminalreporter.line(f"{component:<21}" + "".join(f"{cell:>14}" for cell in (share, *by)))


def _cell(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return "not asked"
    if all(verdict.bitwise for verdict in verdicts):
        return f"bitwise ({len(verdicts)})"
    worst = max(verdicts, key=lambda v: (not v.within, not v.bitwise, v.error))
    tier = "within" if worst.within else "WRONG"
    return f"{tier} {worst.error:.3g} ulp, HF {worst.oracle_error:.3g}"
