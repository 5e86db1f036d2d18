"""Greedy texts are classed: a tie that is broken otherwise is told from a mistake."""

from dataclasses import replace

import pytest
import torch

from llama_reference.questions import greedy
from llama_reference.questions.checks.generate import prompt
from llama_reference.standard import oracle
from llama_reference.standard.cases import Case
from llama_reference.standard.outcome import Outcome


@pytest.fixture(scope="module")
def texts():
    asked = prompt(Case())
    handle = oracle.build(asked.config, asked.state, asked.dtype)
    return asked, asked.ask(oracle, handle, use_cache=True)


def test_transformers_own_are_identical(texts):
    asked, theirs = texts
    rows, _ = greedy.classified("text", asked, theirs, theirs)
    assert [row.kind for row in rows] == [Outcome.IDENTICAL] * 3
    assert greedy.judge("text", asked, theirs, theirs).bitwise


def test_another_token_diverges_where_it_stands(texts):
    asked, theirs = texts
    other = theirs.clone()
    other[1, -1] = (other[1, -1] + 1) % asked.config["vocab_size"]
    rows, verdict = greedy.classified("text", asked, other, theirs)
    assert [row.kind for row in rows] == [Outcome.IDENTICAL, Outcome.DIVERGED, Outcome.IDENTICAL]
    assert (rows[1].step, rows[1].chosen, rows[1].expected) == (asked.new - 1, other[1, -1], theirs[1, -1])
    assert rows[1].gap > rows[1].allowed
    assert not verdict.within
    assert str(rows[1]) in greedy.judge("text", asked, other, theirs).worst


def test_either_of_two_equal_tokens_may_be_taken(texts):
    """A head with the same row twice leaves nothing to choose by: both texts are right, and so is what follows."""
    asked, theirs = texts
    said, twin = int(theirs[0, 9]), 100
    state = {key: tensor.clone() for key, tensor in asked.state.items()}
    state["lm_head.weight"][twin] = state["lm_head.weight"][said]
    asked = replace(asked, state=state)
    theirs = asked.ask(oracle, oracle.build(asked.config, state, asked.dtype), use_cache=True)
    first = theirs[0, 9]
    assert {int(first)} <= {said, twin}
    tokens = torch.cat((asked.tokens, theirs[:, 9:10]), dim=1)
    tokens[0, 9] = said + twin - first
    mask = torch.cat((asked.mask, torch.ones_like(theirs[:, :1])), dim=1)
    on = replace(asked, tokens=tokens, mask=mask, new=asked.new - 1)
    other = on.ask(oracle, oracle.build(asked.config, state, asked.dtype), use_cache=True)
    rows, verdict = greedy.classified("text", asked, other, theirs)
    assert rows[0].kind == Outcome.TIE_BREAK
    assert verdict.within
    assert not torch.equal(other[0, 10:], theirs[0, 10:])
