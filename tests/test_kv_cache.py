"""The cache: formula · oracle · properties. (No gradients: it holds numbers.)"""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from llama_reference.questions import properties
from llama_reference.questions.checks.kv_cache import VARIANTS
from llama_reference.questions.properties.kv_cache import MOST_ROWS, POISONS, ROOM, Machine
from llama_reference.standard.cases import DTYPES

NAME = "kv_cache"
WHICH, CHUNK = st.integers(0, 1), st.integers(1, 7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, variant, dtype):
        compare(NAME, variant, dtype).must_be_bitwise()


@pytest.mark.parametrize("claim", properties.of(NAME), ids=str)
class TestProperties:
    def test_holds(self, hold, claim):
        hold(claim)


class History(RuleBasedStateMachine):
    """What can be done to two caches of one model, in any order; every append is judged."""

    def __init__(self, implementation):
        super().__init__()
        self.machine = Machine(implementation, seed=0)

    def longest(self, which, T):
        return min(T, self.machine.room(which))

    def has_room(self):
        return self.machine.room(0) and self.machine.room(1)

    def is_filled(self):
        return self.machine.room(0) < ROOM and self.machine.room(1) < ROOM

    @rule(which=WHICH, T=CHUNK, pads=st.lists(st.integers(0, 6), min_size=MOST_ROWS, max_size=MOST_ROWS))
    @precondition(has_room)
    def append(self, which, T, pads):
        T = self.longest(which, T)
        self.machine.append(which, T, [min(pad, T - 1) for pad in pads])

    @rule(which=WHICH, length=st.integers(0, ROOM))
    def crop(self, which, length):
        self.machine.crop(which, min(length, self.machine.histories[which].length))

    @rule(which=WHICH, rows=st.lists(st.integers(0, MOST_ROWS - 1), min_size=1, max_size=MOST_ROWS))
    @precondition(is_filled)
    def reorder(self, which, rows):
        there = len(self.machine.histories[which].tokens)
        self.machine.reorder(which, [row % there for row in rows])

    @rule(which=WHICH)
    def reset(self, which):
        self.machine.crop(which, 0)

    @rule(which=WHICH, T=st.integers(1, ROOM))
    @precondition(has_room)
    def reuse_after_a_longer_text(self, which, T):
        self.machine.scribble(which, self.longest(which, T))

    @rule(which=WHICH, T=st.integers(1, ROOM), number=st.sampled_from(POISONS))
    @precondition(has_room)
    def poison(self, which, T, number):
        self.machine.poison(which, self.longest(which, T), number)


@torch.no_grad()
def test_no_history_leaves_a_trace(implementation):
    examples = max(1, hypothesis.settings().max_examples * 3 // 5)  # each is many calls
    settings = hypothesis.settings(max_examples=examples, stateful_step_count=10)
    run_state_machine_as_test(lambda: History(implementation), settings=settings)
