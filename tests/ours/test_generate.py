"""generate: when it stops, what it fills up with, how it samples, what it refuses."""

import dataclasses

import pytest
import torch

from llama_scratch import Llama, config_file, generate
from llama_scratch.generate import choose
from reference.cases import Case


@pytest.fixture(scope="module")
def model():
    case = Case()
    llama = Llama(config_file.from_dict(case.config))
    llama.load_state_dict(case.state)
    return llama.eval()


PROMPT = Case().tokens[:3, :6]


@pytest.mark.parametrize("new", [0, 1, 7])
def test_adds_exactly_as_many_as_asked(model, new):
    ids = generate(model, PROMPT, new, stop_ids=[])
    assert ids.shape == (3, 6 + new)
    assert torch.equal(ids[:, :6], PROMPT)


def test_each_stop_id_stops_its_row_and_the_rest_is_filler(model):
    free = generate(model, PROMPT, 12, stop_ids=[])[:, 6:]
    stops = [free[0, 2].item(), free[1, 5].item()]
    assert not set(stops) & set(free[2].tolist()), "a row that never stops"
    stopped = generate(model, PROMPT, 12, stop_ids=stops)[:, 6:]
    for row in range(3):
        ends = [t for t, token in enumerate(free[row].tolist()) if token in stops]
        end = ends[0] + 1 if ends else 12
        assert torch.equal(stopped[row, :end], free[row, :end])
        assert (stopped[row, end:] == stops[0]).all()
    first_stop = min(t for t, token in enumerate(free[0].tolist()) if token in stops)
    assert generate(model, PROMPT[:1], 12, stop_ids=stops).shape[1] == 6 + first_stop + 1, "all stopped: it ends"


def test_the_configuration_says_when_to_stop_and_what_to_fill_with(model):
    free = generate(model, PROMPT, 12, stop_ids=[])[:, 6:]
    config = dataclasses.replace(model.config, eos_token_id=[100, free[0, 2].item()], pad_token_id=9)
    other = Llama(config).eval()
    other.load_state_dict(model.state_dict())
    stopped = generate(other, PROMPT, 12)[:, 6:]
    end = free[0].tolist().index(config.eos_token_id[1]) + 1
    assert torch.equal(stopped[0, :end], free[0, :end])
    assert (stopped[0, end:] == 9).all()


def test_a_padded_prompt_goes_on_as_it_does_alone(model):
    mask = (torch.arange(6) >= torch.tensor([[0], [2], [4]])).long()
    together = generate(model, PROMPT, 8, attention_mask=mask, stop_ids=[])[:, 6:]
    for row in range(3):
        alone = generate(model, PROMPT[row : row + 1, mask[row].bool()], 8, stop_ids=[])[:, -8:]
        assert torch.equal(together[row], alone[0])


def test_sampling_follows_softmax_of_logits_over_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0, -30.0]]).expand(200_000, -1)
    drawn = choose(logits, 0.5, torch.Generator().manual_seed(0)).bincount(minlength=4) / 200_000
    expected = (logits[0] / 0.5).softmax(-1)
    standard_error = (expected * (1 - expected) / 200_000).sqrt()
    assert ((drawn - expected).abs() <= 4 * standard_error).all()


def test_a_tiny_temperature_is_greedy(model):
    assert torch.equal(generate(model, PROMPT, 8, temperature=1e-6), generate(model, PROMPT, 8))


def test_the_generator_decides_and_the_global_one_is_left_alone(model):
    state = torch.get_rng_state()
    first, again, other = (
        generate(model, PROMPT, 12, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_evaluates_and_restores_the_mode(model):
    config = dataclasses.replace(model.config, attention_dropout=0.5)
    other = Llama(config)
    other.load_state_dict(model.state_dict())
    assert other.training
    assert torch.equal(generate(other, PROMPT, 8), generate(model, PROMPT, 8))
    assert other.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": PROMPT[:, :0]}, "the prompt is empty"),
        ({"tokens": PROMPT + 95}, "the prompt's ids run from .*, expected 0 to vocab_size - 1 = 100"),
        ({"tokens": PROMPT - 101}, "the prompt's ids run from -"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_bad_input_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"tokens": PROMPT, "max_new_tokens": 3} | arguments)
