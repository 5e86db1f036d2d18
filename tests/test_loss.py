"""Next-token loss: formula · oracle · gradients · properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.cases import DTYPES

NAME = "loss"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, dtype):
        compare(NAME, "hard", dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, dtype):
        compare(NAME, "hard", dtype).must_be_bitwise()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard"])
class TestGradients:
    """Of every input and every parameter."""

    def test_is_within_budget_of_the_exact_one(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare_gradients, variant, dtype):
        compare_gradients(NAME, variant, dtype).must_be_bitwise()


def test_uniform_logits_cost_log_v(implementation):
    loss = implementation.loss(torch.zeros(2, 5, 64), torch.arange(10).view(2, 5))
    assert loss.item() == pytest.approx(math.log(64))


@given(t=st.integers(1, 6))
def test_a_token_is_predicted_from_the_one_before(implementation, t):
    """Only the logits before the one token that counts matter."""
    labels = torch.full((1, 7), -100)
    labels[0, t] = 3
    logits = torch.zeros(1, 7, 8)
    logits[0, t - 1, 3] = 100.0
    assert implementation.loss(logits, labels).item() == 0
    assert implementation.loss(logits.roll(1, dims=1), labels).item() > 1


def test_ignored_labels_count_for_nothing_and_rows_of_unequal_length_weigh_by_token(implementation):
    logits = torch.zeros(2, 6, 4)
    labels = torch.zeros(2, 6, dtype=torch.long)
    logits[0, :, 0] = 50.0  # row 0 is certain and right: 0 nats a token
    labels[0, 3:] = -100  # 2 targets, and row 1 has 5 of log 4
    assert implementation.loss(logits, labels).item() == pytest.approx(5 / 7 * math.log(4))
