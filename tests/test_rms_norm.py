"""RMSNorm: formula · oracle · gradients · properties."""

import pytest

from llama_reference.questions import properties
from llama_reference.questions.checks.rms_norm import VARIANTS
from llama_reference.standard.cases import DTYPES

NAME = "rms_norm"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("claim", properties.of(NAME), ids=str)
class TestProperties:
    def test_holds(self, hold, claim):
        hold(claim)
