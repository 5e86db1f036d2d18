"""stream: the loop step by step, log-probabilities, prompts side by side, and the end of the context."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_reference.standard.cases import Case, weights
from llama_scratch import Llama, LlamaConfig, Tokenizer, generate
from llama_scratch.checkpoint import config_file
from llama_scratch.generate import choose, context_length, pad_left, stream
from llama_scratch.generate.sampling import SamplingParams, next_token_probabilities, penalised

PROMPT = Case().tokens[:3, :6]
MASK = (torch.arange(6) >= torch.tensor([[0], [2], [4]])).long()


@pytest.fixture(scope="module")
def model():
    return hard_model(seed=3)  # of those that repeat themselves least


def hard_model(seed: int, **fields) -> Llama:
    case = Case()
    llama = Llama(dataclasses.replace(config_file.from_dict(case.config), **fields))
    llama.load_state_dict(weights(case.config, seed))
    return llama.eval().requires_grad_(False)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no padding", "padded"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_steps_are_what_generate_writes(model, use_cache, mask):
    free = generate(model, PROMPT, 8, attention_mask=mask, stop_ids=[])[0, 6:].tolist()
    stops = [next(i for i in free if i != free[0])]  # not with the first step
    how = {"use_cache": use_cache, "attention_mask": mask, "stop_ids": stops}
    steps = list(stream(model, PROMPT, 8, **how))
    whole = generate(model, PROMPT, 8, **how)[:, 6:]
    assert torch.equal(torch.stack([step.tokens for step in steps], dim=1), whole)
    for t, step in enumerate(steps):
        assert step.running.tolist() == [not set(row[: t + 1]) & set(stops) for row in whole.tolist()]


def test_a_steps_logits_are_the_models_own_and_its_log_probabilities_their_log_softmax():
    """In bfloat16, and under every knob: neither temperature nor filters nor the penalty are in them."""
    model, text = hard_model(seed=0).bfloat16(), PROMPT
    params = SamplingParams(1.5, top_k=20, top_p=0.9, repetition_penalty=1.5)
    dice = torch.Generator().manual_seed(0)
    for step in stream(model, PROMPT, 5, params, use_cache=False, stop_ids=[], generator=dice):
        logits = model(text)[:, -1]
        assert torch.equal(step.logits, logits)
        own = logits.float().log_softmax(-1)
        assert step.log_probabilities.tolist() == [own[row, i].item() for row, i in enumerate(step.tokens)]
        text = torch.cat((text, step.tokens[:, None]), dim=1)


def test_every_step_is_there_as_soon_as_it_is_computed(model, monkeypatch):
    calls, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *given, **kw: calls.append(1) or forward(*given, **kw))
    for n, _ in enumerate(stream(model, PROMPT, 4, stop_ids=[]), start=1):
        assert len(calls) == n


def test_what_is_wrong_is_said_before_the_first_step(model):
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        stream(model, PROMPT, -1)


def test_closed_half_way_it_leaves_the_mode_as_it_was_and_no_graph():
    model = hard_model(seed=0).train().requires_grad_(True)
    steps = stream(model, PROMPT, 4)
    step = next(steps)
    assert not model.training
    assert not step.logits.requires_grad
    assert torch.is_grad_enabled(), "between the steps a caller computes as before"
    steps.close()
    assert all(module.training for module in model.modules())


@given(seed=st.integers(0, 2**16), penalty=st.sampled_from([None, 1.0, 1.3, 0.6, 5.0]), padded=st.booleans())
def test_greedy_takes_the_likeliest_of_the_whole_distribution(seed, penalty, padded):
    dice = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 12, generator=dice).mul(3).round().bfloat16().requires_grad_()  # with ties
    tokens = torch.randint(12, (3, 6), generator=dice)
    asked = logits, tokens, SamplingParams(0.0, repetition_penalty=penalty), MASK if padded else None
    expected = penalised(*asked).argmax(-1)
    assert torch.equal(choose(*asked), expected)
    assert torch.equal(next_token_probabilities(*asked).argmax(-1), expected)


def test_prompts_of_any_length_stand_side_by_side():
    tokens, mask = pad_left([[5, 6, 7], [8], [9, 10]])
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]], ids=str)
def test_no_prompt_and_an_empty_one_are_refused(prompts):
    with pytest.raises(ValueError, match=r"the prompts have \[.*\] tokens, expected at least one prompt"):
        pad_left(prompts)


@pytest.mark.parametrize("knobs", [{}, {"repetition_penalty": 1.7}], ids=str)
@pytest.mark.parametrize("seed", [1, 3, 6])
def test_a_batch_writes_what_each_prompt_alone_does(seed, knobs):
    model = hard_model(seed)
    dice = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(101, (length,), generator=dice).tolist() for length in (1, 9, 4, 6)]
    together = in_a_batch(model, prompts, 12, **knobs)
    assert together == [alone(model, prompt, 12, **knobs) for prompt in prompts]


def test_a_batch_of_stories_is_the_stories(shared):
    model = Llama.from_pretrained(shared / "stories260K")
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    texts = ["Once upon a time", "The", "Lily and Tom went to the big park because", "One day, a bird", ""]
    prompts = [tokenizer.encode(text, bos=True) for text in texts]
    assert in_a_batch(model, prompts, 60) == [alone(model, prompt, 60) for prompt in prompts]


def in_a_batch(model, prompts, new, **knobs):
    tokens, mask = pad_left(prompts)
    return generate(model, tokens, new, attention_mask=mask, stop_ids=[], **knobs)[:, -new:].tolist()


def alone(model, prompt, new, **knobs):
    return generate(model, torch.tensor([prompt]), new, stop_ids=[], **knobs)[0, -new:].tolist()


@pytest.mark.parametrize(
    ("new", "mask", "message"),
    [
        (0, None, "the prompt has 6 tokens, expected at most 5: the model's context"),
        (2, MASK[1:2], "max_new_tokens is 2, expected at most 1: the prompt has 4 tokens, the model's context 5"),
    ],
)
def test_more_than_the_context_is_refused_with_the_numbers(new, mask, message):
    model = hard_model(seed=0, max_position_embeddings=5)
    with pytest.raises(ValueError, match=message):
        generate(model, PROMPT[:1], new, attention_mask=mask)


def test_the_context_can_be_filled_and_padding_takes_no_room():
    model = hard_model(seed=0, max_position_embeddings=8)
    assert generate(model, PROMPT, 2, stop_ids=[]).shape[1] == 8
    assert generate(model, PROMPT[1:], 4, attention_mask=MASK[1:], stop_ids=[]).shape[1] == 10


@pytest.mark.parametrize(
    ("length", "rope", "expected"),
    [
        (4096, {}, 4096),
        (131072, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192}, 131072),
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),  # lmsys/vicuna-7b-v1.5-16k
        (4096, {"rope_type": "dynamic", "factor": 2.0}, 8192),
        (65536, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}, 65536),
        (4096, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}, 65536),
    ],
)  # fmt: skip
def test_the_context_is_as_long_as_the_frequencies_reach(length, rope, expected):
    assert context_length(LlamaConfig(max_position_embeddings=length, rope_parameters=rope)) == expected
