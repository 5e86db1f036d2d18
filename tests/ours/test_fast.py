"""fast.py computes what the textbook model computes: within budget of the formula, and the same text."""

import dataclasses

import pytest
import torch
from torch._dynamo.utils import counters

from llama_scratch import Llama, Tokenizer, config_file, fast, generate
from llama_scratch.fast import FastLlama
from reference import budget
from reference.cases import Case

pytestmark = pytest.mark.skipif(not fast.can_compile(), reason="needs g++ or clang++")

PROMPT, STEPS = 5, 12


def textbook(dtype: torch.dtype, **fields) -> Llama:
    """The hard model: biases, R = 3, head_dim of its own, llama3 frequencies, loud weights."""
    case = Case()
    model = Llama(dataclasses.replace(config_file.from_dict(case.config), **fields))
    model.load_state_dict(case.state)
    return model.to(dtype).eval().requires_grad_(False)


def step_by_step(model: FastLlama, tokens: torch.Tensor, room: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of every position: the first PROMPT at once, then one by one."""
    cache, parts = model.new_cache(len(tokens), room), []
    for start, end in [(0, PROMPT), *((t, t + 1) for t in range(PROMPT, tokens.shape[1]))]:
        parts.append(model(tokens[:, start:end], cache, None if mask is None else mask[:, :end]))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_are_within_budget_of_the_formula(dtype):
    tokens = Case().tokens[:1, : PROMPT + STEPS]
    model = textbook(dtype)
    compiled = counters["stats"]["unique_graphs"]
    found = step_by_step(FastLlama(model), tokens, 24)
    assert counters["stats"]["unique_graphs"] == compiled + 1, "one compilation, however the text grows"
    with torch.no_grad():
        theirs, exact = model(tokens), textbook(dtype).double()(tokens)
    single = slice(PROMPT, None)
    verdict = budget.judge("fast", found[:, single], theirs[:, single], exact[:, single], dtype)
    assert verdict.within, verdict
    assert not verdict.bitwise, "the compiled step was not used"


def test_a_cache_of_another_length_needs_no_other_compilation():
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + 3]
    first = step_by_step(model, tokens, 24)
    compiled = counters["stats"]["unique_graphs"]
    assert torch.equal(step_by_step(model, tokens, 200), first)
    assert counters["stats"]["unique_graphs"] == compiled


def padded(tokens: torch.Tensor) -> torch.Tensor:
    """An attention_mask with one padding token more in every row than in the one before."""
    B, T = tokens.shape
    return (torch.arange(T) >= torch.arange(B)[:, None]).long()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_batch_of_prompts_of_different_lengths_is_within_budget(dtype):
    tokens = Case().tokens[:, : PROMPT + STEPS].repeat(2, 1)  # rows that differ by their padding alone
    model, mask = textbook(dtype), padded(tokens)
    compiled = counters["stats"]["unique_graphs"]
    found = step_by_step(FastLlama(model), tokens, 24, mask)
    assert counters["stats"]["unique_graphs"] == compiled + 1
    step_by_step(FastLlama(model), tokens[1:], 24, mask[1:])
    assert counters["stats"]["unique_graphs"] == compiled + 1, "another batch, compiled again"
    precise = textbook(dtype).double()
    with torch.no_grad():
        theirs = model(tokens, None, mask)
        exact = torch.zeros_like(theirs, dtype=torch.float64)
        for row, real in zip(range(len(tokens)), mask.sum(-1).tolist(), strict=True):
            exact[row, -real:] = precise(tokens[row : row + 1, -real:])[0]
    compared = (mask == 1) & (torch.arange(tokens.shape[1]) >= PROMPT)  # real, and asked one by one
    verdict = budget.judge("fast", found[compared], theirs[compared], exact[compared], dtype)
    assert verdict.within, verdict
    assert not verdict.bitwise, "the compiled step was not used"


def test_a_prompt_in_chunks_is_the_whole_prompt(monkeypatch):
    model, tokens = FastLlama(textbook(torch.float32)), Case().tokens[:, : PROMPT + 3]
    mask = padded(tokens)
    for given in (None, mask):
        whole, last = (model(tokens, model.new_cache(len(tokens), 9), given, last_only=only) for only in (False, True))
        with monkeypatch.context() as m:
            m.setattr(fast, "CHUNK", 3)
            parts, end = (
                model(tokens, model.new_cache(len(tokens), 9), given, last_only=only) for only in (False, True)
            )
        torch.testing.assert_close(parts[:, 3:], whole[:, 3:])  # what stands before in row 3 sees nothing but padding
        torch.testing.assert_close(end, whole[:, -1:])
        torch.testing.assert_close(last, whole[:, -1:])
    assert not any(layer.self_attn.sdpa for layer in model.model.model.layers), "the model itself is as it was"


def test_one_token_may_be_the_whole_prompt():
    model, tokens = textbook(torch.float32), Case().tokens[:1, :1]
    assert torch.equal(generate(model, tokens, 4, stop_ids=[], fast=True), generate(model, tokens, 4, stop_ids=[]))


def test_it_compiles_where_that_is_expected_to_pay(monkeypatch):
    model, tokens = textbook(torch.float32), Case().tokens[:1, :PROMPT]
    monkeypatch.setattr(fast, "compiled", {})
    needed = fast.pays_from(model)
    assert needed > 1000, "a tiny model is decoded sooner than compiled"
    choice = [type(fast.for_decoding(model, None, n, 1, padded=False)) for n in (needed - 1, needed)]
    assert choice == [Llama, FastLlama]
    monkeypatch.setattr(fast, "SECONDS_A_LAYER", 0)
    generate(model, tokens, 2, stop_ids=[])
    assert len(fast.compiled) == 1
    monkeypatch.undo()
    fast.compiled[(*fast._kind(model), False, False)] = 1.0
    assert fast.pays_from(model) == 1, "what is compiled already costs nothing"
    assert type(fast.for_decoding(model, False, 9999, 1, padded=False)) is Llama


def test_a_full_cache_is_refused():
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + 1]
    with pytest.raises(ValueError, match="5 cached \\+ 1 new positions exceed the cache's max_length 5"):
        step_by_step(model, tokens, PROMPT)


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(fast.shutil, "which", lambda _name: None)
    model, tokens = textbook(torch.float32), Case().tokens[:1, :PROMPT]
    assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4, fast=False))
    assert [r.getMessage() for r in caplog.records] == ["decoding without compiling: there is no g++ or clang++"]


def test_a_trained_model_tells_the_same_stories(shared):
    model = Llama.from_pretrained(shared / "stories260K").requires_grad_(False)
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    for text in ("Once upon a time", "Lily and Tom", "The big dog", "One day, a bird"):
        prompt = torch.tensor([tokenizer.encode(text, bos=True)])
        slow, quick = (generate(model, prompt, 100, stop_ids=[], fast=f) for f in (False, True))
        assert torch.equal(slow, quick)
