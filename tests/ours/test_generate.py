"""generate: when it stops, what it fills up with, how it samples, what it refuses."""

import dataclasses
import inspect

import pytest
import torch
from transformers import GenerationConfig

from llama_reference.standard import oracle
from llama_reference.standard.cases import Case
from llama_scratch import Llama, LlamaConfig, generate
from llama_scratch.checkpoint import config_file
from llama_scratch.generate import GenerationError, choose, sampling
from llama_scratch.generate.sampling import SamplingParams


@pytest.fixture(scope="module")
def model():
    case = Case()
    llama = Llama(config_file.from_dict(case.config))
    llama.load_state_dict(case.state)
    return llama.eval()


@pytest.fixture(scope="module")
def transformers_model():
    case = Case()
    return oracle.build(case.config, case.state, case.dtype)


def small_model():
    torch.manual_seed(0)
    return Llama(LlamaConfig(50, 16, 24, 2, 2, eos_token_id=None, initializer_range=0.5)).eval()


PROMPT = Case().tokens[:3, :6]
MASK = (torch.arange(6) >= torch.tensor([[0], [2], [4]])).long()
OFF = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}  # transformers' own default is top_k=50


def theirs(model, mask, new, stop_ids=None, **settings):
    """What transformers' generate makes of PROMPT; unlike ours, it has defaults that are not off."""
    settings = GenerationConfig(max_new_tokens=new, pad_token_id=0, **settings)
    return model.generate(PROMPT, attention_mask=mask, generation_config=settings, eos_token_id=stop_ids)


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
    likeliest = generate(model, PROMPT, 1, attention_mask=MASK, stop_ids=[])[:, -1:]
    padded = PROMPT.where(MASK.bool(), likeliest)
    for knobs in ({}, {"repetition_penalty": 2.0}):  # padding is no text: what stands there is not penalised
        together = generate(model, padded, 8, attention_mask=MASK, stop_ids=[], **knobs)[:, 6:]
        for row in range(3):
            alone = generate(model, PROMPT[row : row + 1, MASK[row].bool()], 8, stop_ids=[], **knobs)[:, -8:]
            assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("use_cache", [True, False])
def test_rows_end_where_transformers_ends_them(model, transformers_model, use_cache):
    """Each of three stop ids is met by one row alone: early, late and with the very last token."""
    free = generate(model, PROMPT, 10, attention_mask=MASK, stop_ids=[])[:, 6:]
    stops = [free[0, 9].item(), free[1, 2].item(), free[2, 4].item()]
    ends = [next(t for t, token in enumerate(row.tolist()) if token in stops) for row in free]
    assert ends == [9, 2, 4]
    config = dataclasses.replace(model.config, eos_token_id=stops, pad_token_id=0)
    ours = Llama(config).eval()
    ours.load_state_dict(model.state_dict())
    for new in (1, 5, 9, 10, 12):
        expected = theirs(transformers_model, MASK, new, stops, do_sample=False)
        assert torch.equal(generate(ours, PROMPT, new, use_cache=use_cache, attention_mask=MASK), expected)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no padding", "padded"])
@pytest.mark.parametrize("penalty", [1.2, 3.0, 0.5])
def test_repetition_penalty_in_greedy_decoding_is_transformers(model, transformers_model, penalty, mask):
    ours = generate(model, PROMPT, 24, attention_mask=mask, stop_ids=[], repetition_penalty=penalty)
    real = torch.ones_like(PROMPT) if mask is None else mask
    assert torch.equal(ours, theirs(transformers_model, real, 24, do_sample=False, repetition_penalty=penalty))
    assert not torch.equal(ours, generate(model, PROMPT, 24, attention_mask=mask, stop_ids=[]))


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": 1.0},
        {"temperature": 3.0},  # so flat that the 50 likeliest tokens would not do
        {"temperature": 1.5, "top_k": 7},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.1},
        {"temperature": 1.5, "repetition_penalty": 1.3},
        {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_the_same_seed_draws_the_text_that_transformers_draws(model, transformers_model, knobs):
    with torch.random.fork_rng():  # transformers draws from the global generator
        torch.manual_seed(5)
        expected = theirs(transformers_model, MASK, 24, do_sample=True, **OFF | knobs)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(
        generate(model, PROMPT, 24, attention_mask=MASK, stop_ids=[], generator=generator, **knobs), expected
    )


def test_by_default_it_is_greedy_and_every_knob_is_off():
    defaults = {name: p.default for name, p in inspect.signature(generate).parameters.items()}
    knobs = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    assert [defaults[knob] for knob in knobs] == [0.0, None, None, None, None]


def test_no_step_of_sampling_writes_into_the_logits():
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    tokens = torch.tensor([[0, 1]])
    kept = logits.clone()
    changed = [
        sampling.repetition_penalty(logits, tokens, 2.0),
        sampling.temperature(logits, 0.5),
        sampling.top_k(logits, 1),
        sampling.top_p(logits, 0.1),
        sampling.min_p(logits, 0.9),
    ]
    assert torch.equal(logits, kept)
    assert not any(torch.equal(logits, after) for after in changed)


def test_sampling_follows_softmax_of_logits_over_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0, -30.0]]).expand(200_000, -1)
    tokens = torch.zeros(200_000, 1).long()
    generator = torch.Generator().manual_seed(0)
    drawn = choose(logits, tokens, SamplingParams(0.5), generator=generator).bincount(minlength=4) / 200_000
    expected = (logits[0] / 0.5).softmax(-1)
    standard_error = (expected * (1 - expected) / 200_000).sqrt()
    assert ((drawn - expected).abs() <= 4 * standard_error).all()


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": 1e-6},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-9},
        {"temperature": 1.0, "min_p": 1.0},
    ],
    ids=str,
)
def test_what_leaves_one_token_is_greedy(model, knobs):
    assert torch.equal(generate(model, PROMPT, 8, **knobs), generate(model, PROMPT, 8))


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
    other.model.norm.eval()
    modes = [module.training for module in other.modules()]
    assert torch.equal(generate(other, PROMPT, 8), generate(model, PROMPT, 8))
    assert [module.training for module in other.modules()] == modes


def test_it_restores_the_mode_when_the_model_raises(model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    other = Llama(model.config)
    monkeypatch.setattr(other, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(other, PROMPT, 3)
    assert all(module.training for module in other.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": PROMPT[:, :0]}, "the prompt is empty"),
        ({"tokens": PROMPT + 95}, "the prompt's ids run from .*, expected 0 to vocab_size - 1 = 100"),
        ({"tokens": PROMPT - 101}, "the prompt's ids run from -"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf, expected 0 .greedy. or a positive number"),
        ({"top_k": 0}, "top_k is 0, expected a positive integer, or None"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_p": 1.5}, "top_p is 1.5, expected a number from 0 to 1, or None"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"min_p": 2.0}, "min_p is 2.0, expected a number from 0 to 1, or None"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, expected a positive number, or None"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"attention_mask": MASK.flip(1)}, r"attention_mask ends in padding in rows \[1, 2\]"),
    ],
)
def test_bad_input_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"tokens": PROMPT, "max_new_tokens": 3} | arguments)


@pytest.mark.parametrize(
    "knobs", [{}, {"temperature": 1.0}, {"use_cache": False}, {"top_p": 0.5, "temperature": 1.0}], ids=str
)
def test_logits_that_are_not_finite_are_an_error_that_names_row_and_weight(knobs):
    model = small_model()
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = float("nan")
    with pytest.raises(
        GenerationError, match=r"new token 1 of row 1 are NaN, .*: model.embed_tokens.weight is not fin"
    ):
        generate(model, tokens, 3, **knobs)
    assert generate(model, tokens[:1, :2], 0, **knobs).shape == (1, 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_has_stopped_spoils_nothing(temperature):
    """Its filler may be a token that was never trained."""
    model = small_model()
    tokens = torch.tensor([[1, 2, 3], [7, 8, 2]])
    dice = {"generator": torch.Generator().manual_seed(0)}
    first = generate(model, tokens, 1, temperature, **dice)[:, -1].tolist()
    assert first[0] != first[1]
    model.config.pad_token_id = 9
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")
        model.lm_head.weight[9] = 0
    dice = {"generator": torch.Generator().manual_seed(0)}
    found = generate(model, tokens, 6, temperature, stop_ids=first[:1], **dice)
    assert found.shape[1] > 5, "the first row's filler was read"
    assert set(found[0, 4:].tolist()) == {9}


def test_minus_infinity_excludes_a_token_and_is_no_error():
    model = small_model()
    tokens = torch.tensor([[1, 2, 3]])
    taken = int(generate(model, tokens, 1)[0, -1])
    hook = model.lm_head.register_forward_hook(
        lambda _module, _given, logits: logits.index_fill(-1, torch.tensor([taken]), -torch.inf)
    )
    assert taken not in generate(model, tokens, 5)[0, 3:].tolist()
    hook.remove()
