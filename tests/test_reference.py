"""The references themselves: what transformers does unasked, that the oracle steers clear of it, and that oracle and
formula hold each other up.

Each test of a trap first shows that it is there: one that transformers no longer sets fails, and can be struck out.
"""

import copy
import gc
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from llama_reference.judge import comparison
from llama_reference.judge.sensitivity import Altered
from llama_reference.questions.checks import CHECKS, kv_cache, llama
from llama_reference.standard import budget, cases, formula, oracle
from llama_reference.standard.budget import ORACLE_ULPS
from llama_reference.standard.cases import HARD, LENGTH, Case
from llama_reference.standard.oracle.rotary import inverse_frequencies, reset_rotary

WITHOUT_A_BOUND = {
    "generate": "answers are ids: equal or not",
    "sampling": "probabilities, each judged by its own test",
}


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.fixture(scope="module")
def handle(case) -> LlamaForCausalLM:
    return oracle.build(case.config, case.state, case.dtype)


def plain_transformers(case: Case, **settings) -> LlamaForCausalLM:
    """The model built as one would without this suite."""
    model = LlamaForCausalLM._from_config(LlamaConfig(**copy.deepcopy(case.config)), **settings)
    model.load_state_dict(case.state)
    return model.eval()


# precision


def test_casting_a_model_rounds_its_frequencies_and_building_it_in_the_dtype_does_not(case):
    cast = plain_transformers(case).to(torch.bfloat16).model.rotary_emb.inv_freq
    exact, _ = inverse_frequencies(copy.deepcopy(case.config), length=LENGTH)
    assert cast.dtype == torch.bfloat16
    assert ((cast.float() - exact) * 4000).abs().max() > 0.3  # rad, at position 4000
    ours = oracle.build(case.config, case.state, torch.bfloat16)
    assert torch.equal(ours.model.rotary_emb.inv_freq, exact)
    assert torch.equal(reset_rotary(ours).model.rotary_emb.inv_freq, exact)


def test_float64_transformers_is_not_float64_and_the_formula_is():
    case = Case(dtype=torch.float64)
    name, x = "model.norm", case.hidden()
    exact = formula.rms_norm(formula.build(case.config, case.state, case.dtype), name, x)
    theirs = oracle.rms_norm(oracle.build(case.config, case.state, case.dtype), name, x)
    rounded_once = torch.finfo(torch.float32).eps / torch.finfo(torch.float64).eps
    assert theirs.dtype == torch.float64
    assert budget.ulps(theirs, exact, torch.float64).max() > rounded_once
    torchs = F.rms_norm(x, x.shape[-1:], case.state[name + ".weight"].double(), case.config["rms_norm_eps"])
    assert budget.ulps(torchs, exact, torch.float64).max() <= budget.ULPS
    assert torch.float64 not in cases.DTYPES


# the model


def test_the_last_hidden_state_is_after_the_norm_and_the_block_is_asked_before_it(case, handle):
    states = handle(
        case.tokens,
        attention_mask=case.mask,
        position_ids=case.positions,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    last = case.config["num_hidden_layers"] - 1
    block = oracle.block(handle, last, states[last], case.positions, case.mask)
    assert (states[-1] - block).abs().max() > block.std()
    assert torch.equal(states[-1], oracle.rms_norm(handle, "model.norm", block))


def test_padded_rows_depend_on_the_backend_and_only_real_ones_are_compared(case, handle):
    other = plain_transformers(case)
    assert other.config._attn_implementation == "sdpa"  # unless told otherwise
    assert handle.config._attn_implementation == "eager"
    eager = oracle.llama(handle, case.tokens, case.positions, case.mask)
    sdpa = oracle.llama(other, case.tokens, case.positions, case.mask)
    real = case.mask.bool()
    assert (eager - sdpa)[~real].abs().max() > eager.std()
    exact = formula.llama(formula.build(case.config, case.state, case.dtype), case.tokens, case.positions, case.mask)
    assert budget.judge("sdpa", sdpa[real], eager[real], exact[real], case.dtype).within
    assert torch.equal(llama.ask(oracle, case)["padded batch"], eager[real])


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_use_cache_changes_no_bit_of_a_pass_with_a_mask(dtype):
    """Measured with transformers 5.23, whatever older versions did; the split of a pass does change bits."""
    case = Case(dtype=dtype)
    handle = oracle.build(case.config, case.state, dtype)
    ask = partial(handle, case.tokens, attention_mask=case.mask, position_ids=case.positions)
    assert torch.equal(ask(use_cache=True).logits, ask(use_cache=False).logits)


def test_a_pass_in_chunks_has_other_bits_and_is_compared_with_the_same_chunks(case):
    first = llama.ask(oracle, case)
    again = llama.ask(oracle, case)
    assert not torch.equal(first["padded batch"], first["in chunks"])
    assert torch.equal(first["in chunks"], again["in chunks"])


def test_positions_that_jump_are_taken_for_packed_texts_unless_there_is_a_mask_or_a_cache(case, handle):
    jump = (torch.arange(LENGTH) + 80 * (torch.arange(LENGTH) >= 20)).expand_as(case.tokens)
    packed = handle(case.tokens, position_ids=jump, use_cache=False).logits
    cached = handle(case.tokens, position_ids=jump, use_cache=True).logits
    ours = oracle.llama(handle, case.tokens, jump, None)
    assert (packed - ours).abs().max() > ours.std()
    assert torch.equal(cached, ours)
    exact = formula.llama(formula.build(case.config, case.state, case.dtype), case.tokens, jump, None)
    assert budget.ulps(ours, exact, case.dtype).max() <= ORACLE_ULPS["llama"]


def test_building_changes_the_configuration_and_the_oracle_works_on_a_copy(case):
    raw = case.config | {"original_max_position_embeddings": 32}
    before = copy.deepcopy(raw)
    theirs = LlamaConfig(**copy.deepcopy(raw))
    read = theirs.rope_parameters["original_max_position_embeddings"]
    LlamaForCausalLM(theirs)
    assert (read, theirs.rope_parameters["original_max_position_embeddings"]) == (64, 32)
    given = copy.deepcopy(raw)
    LlamaForCausalLM(LlamaConfig(**given))
    assert given != before  # even the caller's dictionary
    oracle.build(raw, case.state, case.dtype)
    assert raw == before


def test_dynamic_rotary_remembers_longer_calls_and_the_oracle_forgets():
    case = Case("rope dynamic")
    handle = oracle.build(case.config, case.state, case.dtype)
    context = case.config["max_position_embeddings"]
    short = torch.arange(context + 50)[None]
    long = torch.arange(8 * context)[None]
    embedding, x = handle.model.rotary_emb, torch.zeros(1)
    before = embedding(x, short)[0]
    _ = embedding(x, long)[0]
    after = embedding(x, short)[0]
    assert (before - after).abs().max() > 1
    q = torch.randn(1, 1, context + 50, 20)
    k = torch.randn(1, 1, context + 50, 20)
    fresh = oracle.rotary(oracle.build(case.config, case.state, case.dtype), q, k, short)
    assert all(map(torch.equal, oracle.rotary(handle, q, k, short), fresh))


# generating


def distinct_draws(handle: LlamaForCausalLM, tokens: torch.Tensor, **settings) -> int:
    """How many tokens a nearly uniform distribution over 101 gives in 600 draws."""
    prompts = tokens[:1, :4].repeat(600, 1)
    wanted = GenerationConfig(do_sample=True, temperature=100.0, max_new_tokens=1, pad_token_id=0, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = handle.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=wanted)
    return drawn[:, -1].unique().numel()


def test_sampling_is_cut_to_fifty_tokens_unasked_and_the_oracle_does_not_sample(case, handle):
    assert GenerationConfig().top_k is None
    assert distinct_draws(handle, case.tokens) == 50
    assert distinct_draws(handle, case.tokens, top_k=0) > 90
    ids = oracle.generate(handle, case.tokens, case.mask, 1, use_cache=False)
    positions = (case.mask.cumsum(-1) - 1).clamp(min=0)
    likeliest = oracle.llama(handle, case.tokens, positions, case.mask)[:, -1].argmax(-1)
    assert torch.equal(ids[:, -1], likeliest)


def test_stop_ids_left_out_are_the_models_and_the_oracle_never_stops(case):
    config = case.config | {"eos_token_id": list(range(case.config["vocab_size"]))}
    handle = oracle.build(config, case.state, case.dtype)
    settings = GenerationConfig(do_sample=False, max_new_tokens=5, pad_token_id=0)
    assert settings.eos_token_id is None
    stopped = handle.generate(case.tokens, attention_mask=case.mask, generation_config=settings)
    assert stopped.shape[1] == LENGTH + 1
    assert oracle.generate(handle, case.tokens, case.mask, 5, use_cache=True).shape[1] == LENGTH + 5


# oracle and formula


def test_every_question_has_a_bound_between_the_references_or_a_reason():
    assert ORACLE_ULPS.keys() <= CHECKS.keys()
    assert CHECKS.keys() - ORACLE_ULPS.keys() <= WITHOUT_A_BOUND.keys()


def off_the_formula(name: str, case: Case, formula_case: Case) -> float:
    """Transformers' largest error, in float32, when the formula is asked about formula_case."""
    ask = CHECKS[name].ask
    answers = ask(oracle, case)
    exact = ask(formula, formula_case)
    assert answers.keys() == exact.keys() != set()
    return max(budget.ulps(answers[label], exact[label], case.dtype).max().item() for label in answers)


# The one slow question goes to its own variants: a model's logits over a cache are asked on every variant, as llama.
BETWEEN_REFERENCES = [
    (name, variant) for name in ORACLE_ULPS for variant in (kv_cache.VARIANTS if name == "kv_cache" else cases.VARIANTS)
]


@pytest.mark.parametrize(("name", "variant"), BETWEEN_REFERENCES)
def test_oracle_and_formula_agree(name, variant):
    case = Case(variant)
    assert off_the_formula(name, case, case) <= ORACLE_ULPS[name]


_ROPE = HARD["rope_parameters"]
# What a formula might misread, and components that it would answer wrongly for.
MISREAD = {
    "eps": ({"rms_norm_eps": 1e-6}, ("rms_norm", "block", "llama")),
    "theta": ({"rope_parameters": _ROPE | {"rope_theta": 1.1 * _ROPE["rope_theta"]}}, ("rotary", "attention", "block")),
    "band": ({"rope_parameters": _ROPE | {"high_freq_factor": 2.0}}, ("rotary", "attention", "kv_cache")),
    "activation": ({"hidden_act": "gelu"}, ("swiglu", "block", "llama")),
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field in MISREAD for name in MISREAD[field][1]])
def test_a_formula_gone_wrong_is_seen(field, name, case):
    wrong = Altered(changed=MISREAD[field][0], tensors=case.state)
    assert off_the_formula(name, case, wrong) > ORACLE_ULPS[name]


def test_a_formula_of_the_loss_gone_wrong_is_seen(case, monkeypatch):
    monkeypatch.setattr(formula, "loss_formula", partial(formula.loss_formula, ignored=-1))
    assert off_the_formula("loss", case, case) > ORACLE_ULPS["loss"]


def test_a_case_that_is_kept_keeps_no_inputs():
    """Standards are cached by their cases; every input ever drawn stood behind them."""
    case = Case("no biases", seed=7)
    comparison.ask("rms_norm", oracle, case)
    before = tensors_alive()
    for _ in range(20):
        comparison.ask("rms_norm", oracle, case)
        with torch.enable_grad():
            comparison.gradients.ask("rms_norm", oracle, case)
    assert tensors_alive() <= before


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(kept), torch.Tensor) for kept in gc.get_objects())
