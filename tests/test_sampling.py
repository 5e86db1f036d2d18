"""The next token's distribution: formula · oracle · properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from reference import budget, formula, oracle
from reference.cases import DTYPES, Case
from reference.checks.sampling import KNOBS, OFF, SCALES

NAME = "sampling"
V = 101
HALVES = torch.tensor([[math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]])

seeds = st.integers(0, 2**16)
knobs = st.sampled_from(list(KNOBS.values()))
scales = st.sampled_from(SCALES)


def ask(source, logits, tokens=None, **given):
    """`source`'s probabilities, everything off that is not given."""
    tokens = torch.zeros(len(logits), 1, dtype=torch.long) if tokens is None else tokens
    return source.sampling(logits, tokens, **OFF | given)


def draw(seed, scale, rows=5):
    """Logits without ties, and a text for every row."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.stack([torch.randperm(V, generator=generator) for _ in range(rows)]) / V * 4 - 2
    return logits * scale, torch.randint(V, (rows, 30), generator=generator)


def support(probabilities):
    return [row.nonzero()[:, 0].tolist() for row in probabilities]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestAnswers:
    def test_is_within_budget_of_the_formula(self, compare, dtype):
        compare(NAME, "hard", dtype).must_be_within_budget()

    def test_equals_transformers_bit_for_bit(self, compare, dtype):
        compare(NAME, "hard", dtype).must_be_bitwise()


@pytest.mark.parametrize("label", KNOBS)
def test_the_oracle_has_the_order_of_transformers_own_generate(label):
    case = Case()
    given = OFF | KNOBS[label]
    handle, tokens = oracle.build(case.config, case.state, case.dtype), case.tokens[:, :9]
    sampled = given["temperature"] != 0
    off = {"top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
    set_ = {name: off[name] if given[name] is None else given[name] for name in off}
    settings = (
        {"temperature": given["temperature"], **set_} if sampled else {"repetition_penalty": set_["repetition_penalty"]}
    )
    with torch.random.fork_rng():
        output = handle.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=GenerationConfig(do_sample=sampled, max_new_tokens=1, pad_token_id=0, **settings),
            eos_token_id=None,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    expected = oracle.sampling(output.logits[0], tokens, **given)
    found = output.scores[0].softmax(-1) if sampled else torch.eye(V)[output.sequences[:, -1]]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"top_p": 1e-9}, [0]),  # in float32, 1 - p is 1
        ({"top_p": 1e-6}, [0]),
        ({"top_p": 0.5}, [0]),  # reaches the share exactly: one more would be too many
        ({"top_p": 0.51}, [0, 1]),
        ({"top_p": 0.75}, [0, 1]),
        ({"top_p": 0.8}, [0, 1, 3]),  # of the equals, the last
        ({"top_p": 0.875}, [0, 1, 3]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 3}, [0, 1, 2, 3]),  # a tie for the third place
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"min_p": 0.0}, [0, 1, 2, 3]),
        ({"min_p": 0.25}, [0, 1, 2, 3]),  # exactly a quarter as likely is enough
        ({"min_p": 0.26}, [0, 1]),
        ({"min_p": 0.5}, [0, 1]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 2, "top_p": 0.6}, [0]),  # 0.5 of 0.75 is 2/3
        ({"top_p": 0.6, "temperature": 0.5}, [0]),  # squared and renormalised: 16/22
        ({"min_p": 0.3, "temperature": 0.5}, [0]),
        ({"top_p": 0.7, "temperature": 2.0}, [0, 1, 3]),
        ({"temperature": 0.0, "top_k": 3}, [0]),
    ],
    ids=str,
)
def test_keeps_exactly_these_of_a_half_a_quarter_and_two_eighths(implementation, given, kept):
    for source in (implementation, formula, oracle):
        assert support(ask(source, HALVES, **given)) == [kept]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"top_k": 1}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"top_k": 5}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"top_p": 1e-9}, [7]),
        ({"top_p": 0.5}, [4, 5, 6, 7]),
        ({"top_p": 0.51}, [3, 4, 5, 6, 7]),
        ({"min_p": 1.0}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"temperature": 0.0}, [0]),
    ],
    ids=str,
)
def test_keeps_exactly_these_of_eight_equals(implementation, given, kept):
    for source in (implementation, formula, oracle):
        assert support(ask(source, torch.zeros(1, 8), **given)) == [kept]


@given(seed=seeds, scale=scales)
def test_with_everything_off_it_is_softmax(implementation, seed, scale):
    logits, tokens = draw(seed, scale)
    expected = logits.softmax(-1)
    for nothing in ({}, {"top_k": V}, {"top_p": 1.0}, {"min_p": 0.0}, {"repetition_penalty": 1.0}):
        assert torch.equal(ask(implementation, logits, tokens, **nothing), expected)


@given(seed=seeds)
def test_half_precision_logits_are_widened_first(implementation, seed):
    logits, tokens = draw(seed, 1.0)
    for dtype in (torch.bfloat16, torch.float16):
        given = KNOBS["all"]
        narrow, wide = (ask(implementation, x, tokens, **given) for x in (logits.to(dtype), logits.to(dtype).float()))
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


@given(seed=seeds)
def test_a_small_temperature_is_greedy(implementation, seed):
    logits, _ = draw(seed, 1.0)
    greedy = torch.eye(V)[logits.argmax(-1)]
    for tau in (0.0, 1e-6, 1e-4):
        assert torch.equal(ask(implementation, logits, temperature=tau), greedy)


@given(seed=seeds, scale=scales, given=knobs)
def test_probabilities_sum_to_one_and_the_likeliest_stays(implementation, seed, scale, given):
    logits, tokens = draw(seed, scale)
    found, theirs = (ask(source, logits, tokens, **given) for source in (implementation, oracle))
    residual, oracle_residual = ((p.double().sum(-1) - 1).abs().max().item() for p in (found, theirs))
    assert budget.holds(residual, oracle_residual, torch.float32)
    assert (found >= 0).all()
    if not given.get("repetition_penalty"):
        assert torch.equal(found.argmax(-1), logits.argmax(-1))


@given(seed=seeds, scale=scales, given=knobs, row=st.integers(0, 4))
def test_rows_do_not_see_each_other(implementation, seed, scale, given, row):
    logits, tokens = draw(seed, scale)
    before = ask(implementation, logits, tokens, **given)
    changed, other = logits.clone(), tokens.clone()
    changed[row], other[row] = -logits[row], 100 - tokens[row]
    after = ask(implementation, changed, other, **given)
    others = [i for i in range(5) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@given(seed=seeds, scale=scales, given=knobs)
def test_the_names_of_the_tokens_do_not_matter(implementation, seed, scale, given):
    """Tokens renamed in the logits and in the text: the same probabilities under the new names."""
    logits, tokens = draw(seed, scale)
    new = torch.randperm(V, generator=torch.Generator().manual_seed(seed + 1))
    old = new.argsort()
    found, theirs = (
        (ask(source, logits, tokens, **given), ask(source, logits[:, old], new[tokens], **given)[:, new])
        for source in (implementation, oracle)
    )
    assert support(found[0]) == support(found[1])
    residual, oracle_residual = (((a - b).abs().amax(-1) / a.amax(-1)).max().item() for a, b in (found, theirs))
    assert budget.holds(residual, oracle_residual, torch.float32)


@given(seed=seeds, given=knobs)
def test_nobody_writes_into_the_logits(implementation, seed, given):
    logits, tokens = draw(seed, 1.0)
    kept = logits.clone(), tokens.clone()
    ask(implementation, logits, tokens, **given)
    assert torch.equal(logits, kept[0])
    assert torch.equal(tokens, kept[1])


@given(seed=seeds, penalty=st.sampled_from([1.1, 1.5, 4.0]))
def test_a_penalty_makes_what_was_said_less_likely_and_counts_it_once(implementation, seed, penalty):
    logits, tokens = draw(seed, 1.0)
    said = torch.zeros_like(logits).scatter(1, tokens, 1.0).bool()
    before, after = (ask(implementation, logits, tokens, repetition_penalty=r) for r in (None, penalty))
    odds = after / before
    for row in range(5):  # what was not said gains, all by the same factor; what was said gains less or loses
        assert odds[row][said[row] & (logits[row] != 0)].max() < odds[row][~said[row]].min()
    again = ask(implementation, logits, tokens.repeat(1, 3).flip(1), repetition_penalty=penalty)
    assert torch.equal(after, again)
