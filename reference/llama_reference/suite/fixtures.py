"""The fixtures that the suite's tests use: the adapter named by --implementation, asked and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch

from llama_reference.questions.properties import Claim
from llama_reference.report.results import Results
from llama_reference.suite.collector import PROPERTY, Collector
from llama_reference.suite.offered import Offered
from llama_reference.suite.session import Comparison, Session

THOROUGH = 20  # times the examples, under the hypothesis profile of that name


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """What the run finds out, for the report at its end."""
    collector = request.config.pluginmanager.get_plugin(Collector.NAME)
    if collector is None:
        raise pytest.UsageError("--implementation ADAPTER.py is missing: it names the Llama to test")
    return collector.results


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest, results: Results) -> Iterator[Session]:
    """The adapter named by --implementation, under test."""
    collector: Any = request.config.pluginmanager.get_plugin(Collector.NAME)
    profile = hypothesis.settings.get_current_profile_name()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
    yield Session(collector.adapter, results, THOROUGH if profile == "thorough" else 1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def implementation(session: Session) -> Offered:
    """The adapter, whose missing functions skip the test that asks for them."""
    return session.implementation


@pytest.fixture(scope="session")
def claims_bits(implementation: Offered) -> None:
    """Skips what only an adapter that claims transformers' bits has to show."""
    if not implementation.bitwise:
        pytest.skip("the adapter does not claim transformers' bits: judged by budget")


@pytest.fixture(scope="session")
def compare(session: Session) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the answers, judged by transformers and the formula."""
    return session.compare


@pytest.fixture(scope="session")
def compare_gradients(session: Session) -> Callable[..., Comparison]:
    """Called with (NAME, variant, dtype): the gradients, judged by transformers' and exact ones."""
    return session.compare_gradients


@pytest.fixture
def hold(session: Session, record_property: Callable[[str, object], None]) -> Callable[[Claim], None]:
    """Called with a claim: fails where hypothesis finds that it does not hold."""

    def check(claim: Claim) -> None:
        record_property(PROPERTY, (claim.component, claim.name))
        session.hold(claim)

    return check
