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


def step_by_step(model, tokens: torch.Tensor, room: int) -> torch.Tensor:
    """Logits of every position: the first PROMPT at once, then one by one."""
    cache = FastLlama.new_cache(model, len(tokens), room) if isinstance(model, FastLlama) else None
    if cache is None:
        return model(tokens)
    parts = [model(tokens[:, :PROMPT], cache)]
    parts += [model(tokens[:, t : t + 1], cache) for t in range(PROMPT, tokens.shape[1])]
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


def test_a_batch_and_a_padded_text_are_the_textbooks():
    model, tokens = textbook(torch.float32), Case().tokens[:, : PROMPT + 3]
    mask = (torch.arange(PROMPT + 6) > 1).long().expand(len(tokens), -1)[:, : PROMPT + 3]
    for rows in (slice(None), slice(1)):
        slow = generate(model, tokens[rows], 4, attention_mask=mask[rows], stop_ids=[])
        assert torch.equal(generate(model, tokens[rows], 4, attention_mask=mask[rows], stop_ids=[], fast=True), slow)
    assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4))


def test_a_full_cache_is_refused():
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + 1]
    with pytest.raises(ValueError, match="5 cached \\+ 1 new positions exceed the cache's max_length 5"):
        step_by_step(model, tokens, PROMPT)


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch):
    monkeypatch.setattr(fast.shutil, "which", lambda _name: None)
    model, tokens = textbook(torch.float32), Case().tokens[:1, :PROMPT]
    with pytest.warns(UserWarning, match="needs a C\\+\\+ compiler"):
        assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4))


def test_a_trained_model_tells_the_same_stories(shared):
    model = Llama.from_pretrained(shared / "stories260K").requires_grad_(False)
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    for text in ("Once upon a time", "Lily and Tom", "The big dog", "One day, a bird"):
        prompt = torch.tensor([tokenizer.encode(text, bos=True)])
        slow, quick = (generate(model, prompt, 100, stop_ids=[], fast=f) for f in (False, True))
        assert torch.equal(slow, quick)
