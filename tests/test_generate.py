"""Greedy decoding: formula · oracle · properties. (No gradients: tokens are whole numbers.)"""

import pytest
import torch

from llama_reference.questions import properties
from llama_reference.questions.checks.generate import VARIANTS
from llama_reference.standard.cases import DTYPES

NAME = "generate"


CASES = [(variant, torch.float32) for variant in (*VARIANTS, "a group a head", "rope dynamic")]
CASES += [("hard", dtype) for dtype in DTYPES[1:]]


@pytest.mark.parametrize(("variant", "dtype"), CASES, ids=str)
class TestAnswers:
    def test_every_token_is_the_likeliest_by_the_formula(self, compare, variant, dtype):
        """Of the text that the implementation itself wrote, or as likely up to rounding."""
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_gives_transformers_tokens(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("claim", properties.of(NAME), ids=str)
class TestProperties:
    def test_holds(self, hold, claim):
        hold(claim)
