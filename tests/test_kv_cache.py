"""The cache: formula · oracle. (No gradients: it holds numbers.)"""

import pytest

from reference.cases import DTYPES
from reference.checks.kv_cache import VARIANTS

NAME = "kv_cache"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()
