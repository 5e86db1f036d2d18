"""The implementation under test, the comparisons that the tests ask for, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from llama_reference import mistakes
from llama_reference.adapter_loader import load
from llama_reference.implementation import Implementation, offers
from llama_reference.judge import comparison, diagnosis
from llama_reference.questions.properties import Claim
from llama_reference.report.plugin import PROPERTY, Collector
from llama_reference.report.results import ANSWERS, GRADIENTS, RAISED, Results
from llama_reference.standard import budget
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case
from tests.options import is_foreign

TESTS = Path(__file__).parent
OF_THE_SUITE = ("test_mistakes.py", "test_names.py", "test_decoding.py", "test_collection.py",
                "test_reference.py", "test_sensitivity.py", "test_blame.py", "test_report.py",
                "test_false_alarms.py", "test_recognition.py", "test_planted.py")  # fmt: skip
ADAPTER = pytest.StashKey[ModuleType]()
SHARED = TESTS.parent.parent / "shared" / "data"

# the same examples in every run: a failure is a change of the code, never of the dice
EXAMPLES = 25
_profile = hypothesis.settings(deadline=None, derandomize=True, max_examples=EXAMPLES, database=None)
hypothesis.settings.register_profile("suite", _profile)
hypothesis.settings.register_profile("thorough", _profile, max_examples=20 * EXAMPLES)  # --hypothesis-profile=thorough
hypothesis.settings.load_profile("suite")


class NotOffered(pytest.skip.Exception, NotImplementedError):  # noqa: N818  an outcome, no error
    """Skips the test that does not expect it; a question that can do without the function leaves that answer out."""


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
            raise NotOffered(f"not offered: {name}")

        @wraps(function)
        def offered(*arguments: Any, **options: Any) -> Any:
            if missing := [option for option in options if not offers(self._module, name, option)]:
                raise NotOffered(f"not offered: {name} with {missing[0]}")
            try:
                return function(*arguments, **options)
            except NotImplementedError:
                raise NotOffered(f"not offered: {name}") from None

        return offered


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Somebody else's Llama is asked the questions, not what this project asks of itself."""
    own = collection_path.is_relative_to(TESTS / "ours") or collection_path.name in OF_THE_SUITE
    return True if own and is_foreign(config) else None


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


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """What the run finds out, for the report at its end."""
    return request.config.pluginmanager.get_plugin(Collector.NAME).results


@dataclass(frozen=True)
class Comparison:
    """The verdicts on all answers of one component to one case."""

    component: str
    implementation: Offered
    verdicts: list[Verdict]
    results: Results

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
            found = self.results.diagnoses[self.component] = likenesses(self.component, self.implementation)
            pytest.fail("\n  ".join([*lines, *found]), pytrace=False)


@cache
def likenesses(component: str, implementation: Offered) -> list[str]:
    """The nearest known mistakes, in words; worked out once, however many tests fail."""
    found = diagnosis.looks_like(component, implementation) if component in mistakes.COMPONENTS else []
    return [str(likeness) for likeness in found[:3]] or ["no known mistake gives these answers"]


@contextmanager
def noted(results: Results, implementation: Offered, component: str, *where: str) -> Iterator[None]:
    """A comparison that raises leaves no verdict, and must not be missing for it in the report."""
    try:
        yield
    except NotImplementedError:  # not offered
        raise
    except Exception as error:
        results.add_trouble(RAISED, component, *where, f"{type(error).__name__}: {error}")
        results.diagnoses[component] = likenesses(component, implementation)
        raise


def pytest_configure(config: pytest.Config) -> None:
    try:
        config.stash[ADAPTER] = load(config.getoption("implementation"))
    except ImportError as error:
        raise pytest.UsageError(f"--implementation: {error}") from None
    if not config.getoption("benchmark_only"):  # tiny models: a second thread costs more than it brings
        torch.set_num_threads(1)
    config.pluginmanager.register(
        Collector(config, config.getoption("implementation"), config.stash[ADAPTER], config.getoption("report")),
        Collector.NAME,
    )


@pytest.fixture(scope="session")
def compare(implementation: Offered, results: Results) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the implementation's answers, judged by transformers and the formula."""

    @cache
    def comparison(component: str, variant: str, dtype: torch.dtype) -> Comparison:
        case = Case(variant, dtype)
        with noted(results, implementation, component, ANSWERS, f"{variant}, {dtype}"):
            verdicts = comparison.verdicts(component, case, comparison.ask(component, implementation, case))
        results.add(component, ANSWERS, variant, verdicts)
        return Comparison(component, implementation, verdicts, results)

    return comparison


@pytest.fixture(scope="session")
def compare_gradients(implementation: Offered, results: Results) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the implementation's gradients, judged by transformers' and exact ones."""

    @cache
    def comparison(component: str, variant: str, dtype: torch.dtype) -> Comparison:
        with noted(results, implementation, component, GRADIENTS, f"{variant}, {dtype}"):
            verdicts = comparison.gradient_verdicts(component, implementation, variant, dtype)
        results.add(component, GRADIENTS, variant, verdicts)
        return Comparison(component, implementation, verdicts, results)

    return comparison


@pytest.fixture(scope="session")
def within_budget(implementation: Offered, results: Results) -> Callable[[str, Case, str, Tensor], None]:
    """Called with (NAME, case, label, answer): fails unless the answer, however it was come by, is about as near to
    the formula's as transformers' one pass is.
    """

    def check(component: str, case: Case, label: str, answer: Tensor) -> None:
        theirs, exact = comparison.reference(component, case)
        verdict = budget.judge(label, answer, theirs[label], exact[label], case.dtype)
        Comparison(component, implementation, [verdict], results).must_be_within_budget()

    return check


class Drawn:
    """Choices made by hypothesis, which varies and shrinks them."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, lowest: int, highest: int) -> int:
        return self._data.draw(st.integers(lowest, highest))

    def choice(self, options: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(options))


@pytest.fixture
def hold(implementation: Offered, record_property: Callable[[str, object], None]) -> Callable[[Claim], None]:
    """Called with a claim: fails where hypothesis finds that it does not hold."""

    def check(claim: Claim) -> None:
        record_property(PROPERTY, (claim.component, claim.name))
        times = hypothesis.settings().max_examples / EXAMPLES

        @hypothesis.settings(max_examples=max(1, int(claim.examples * times)) if claim.examples > 1 else 1)
        @hypothesis.given(data=st.data())
        def drawn(data: st.DataObject) -> None:
            claim.check(implementation, Drawn(data))

        with torch.no_grad():
            drawn()

    return check


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real artefacts beside the checkout: a trained checkpoint, known answers."""
    if not SHARED.parent.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED
