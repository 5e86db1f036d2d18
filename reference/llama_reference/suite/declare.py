"""The suite as pytest's tests, declared once for every component."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llama_reference.adapter_loader import load
from llama_reference.questions import properties
from llama_reference.report.results import Results
from llama_reference.suite.plan import answer_cases, chosen, gradient_cases, items
from llama_reference.suite.session import Session


def declared(component: str) -> dict[str, type]:
    """The test classes of a component, for the names of a module: globals().update(declared("rms_norm"))."""

    @pytest.mark.parametrize(("variant", "dtype"), answer_cases(component), ids=str)
    class TestAnswers:
        """What the component answers."""

        def test_is_within_budget_of_the_formula(self, compare, variant, dtype):  # type: ignore[no-untyped-def]
            compare(component, variant, dtype).must_be_within_budget()

        @pytest.mark.usefixtures("claims_bits")
        def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):  # type: ignore[no-untyped-def]
            compare(component, variant, dtype).must_be_bitwise()

    @pytest.mark.parametrize(("variant", "dtype"), gradient_cases(component), ids=str)
    class TestGradients:
        """The gradients of every input and every parameter."""

        def test_is_within_budget_of_the_formula(self, compare_gradients, variant, dtype):  # type: ignore[no-untyped-def]
            compare_gradients(component, variant, dtype).must_be_within_budget()

        @pytest.mark.usefixtures("claims_bits")
        def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):  # type: ignore[no-untyped-def]
            compare_gradients(component, variant, dtype).must_be_bitwise()

    @pytest.mark.parametrize("claim", properties.of(component), ids=str)
    class TestProperties:
        """Claims that need no second implementation."""

        def test_holds(self, hold, claim):  # type: ignore[no-untyped-def]
            hold(claim)

    classes: dict[str, type] = {"TestAnswers": TestAnswers, "TestProperties": TestProperties}
    if gradient_cases(component):
        classes["TestGradients"] = TestGradients
    return classes


def parametrize_with_checks(
    adapter: object, components: tuple[str, ...] = (), quick: bool = False
) -> pytest.MarkDecorator:
    """Parametrise a test of your own with everything that the suite asks of an adapter.

    adapter: a module or object with the functions of llama_reference.implementation, or the path of such a file.
    The test has one argument, `check`, and calls it; it raises AssertionError where the adapter is wrong, and skips
    what the adapter does not offer:

        @parametrize_with_checks("my_adapter.py")
        def test_my_llama(check):
            check()
    """
    session = Session(load(Path(adapter)) if isinstance(adapter, str | Path) else adapter, Results())
    checks: dict[str, Callable[[], None]] = {}
    for component in chosen(components):
        for item in items(component, quick):
            checks |= session.tests(item)
    names = [name.replace("test_", "").replace(".py::Test", "-").replace("::", "-") for name in checks]
    return pytest.mark.parametrize("check", checks.values(), ids=names)
