"""Claims about greedy decoding. Where two texts should be the same and are not, only a tie may have been broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Generate, Handle
from llama_reference.questions import greedy
from llama_reference.questions.greedy import Prompt
from llama_reference.questions.properties.asking import hard, steady
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard import oracle
from llama_reference.standard.cases import Case, weights

CLAIMS = Claims("generate")

LAYERS = 2  # many tokens are generated: a layer less, and few at a time
PADDING = (2, 0, 5)
NEW = 6


def prompt(of: Case, seed: int, length: int) -> Prompt:
    """Rows padded on the left by different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(PADDING) if of.profile.batch else 1
    config = of.config | {"num_hidden_layers": LAYERS}
    tokens = torch.randint(config["vocab_size"], (rows, length), generator=generator)
    mask = (torch.arange(length) >= torch.tensor(PADDING[:rows])[:, None]).long() if of.profile.padding else None
    return Prompt(config, weights(config, seed), torch.float32, tokens, mask, NEW)


def drawn(draw: Draw, of: Case | None = None) -> Prompt:
    return prompt(hard(draw) if of is None else of, draw.integer(0, 2**16), draw.integer(6, 24))


def cached(draw: Draw) -> bool:
    """With the cache or without, as far as there is one."""
    return draw.choice([True, False] if draw.profile.cache else [False])


def built(implementation: Generate, asked: Prompt) -> Any:
    return implementation.build(asked.config, asked.state, asked.dtype)


def must_be_the_same(asked: Prompt, answer: Tensor, other: Tensor) -> None:
    """Or each must be what greedy decoding may write: then they differ by how they break a tie."""
    if torch.equal(answer, other):
        return
    theirs = asked.ask(oracle, built(oracle, asked), use_cache=True)
    for text in (answer, other):
        verdict = greedy.judge("text", asked, text, theirs)
        assert verdict.within, str(verdict)


@CLAIMS.claim(examples=10, needs=("cache",))
def cached_equals_uncached(implementation: Generate, draw: Draw) -> None:
    asked = drawn(draw, steady(draw))
    handle = built(implementation, asked)
    must_be_the_same(asked, *(asked.ask(implementation, handle, use_cache) for use_cache in (True, False)))


@CLAIMS.claim(examples=10)
def each_of_several_stop_ids_ends_a_row(implementation: Generate, draw: Draw) -> None:
    """One id of each row's own text, in any order, so that rows end at different steps; a late one may stand first."""
    asked, use_cache = drawn(draw), cached(draw)
    handle = built(implementation, asked)
    free = asked.ask(implementation, handle, use_cache)
    texts = free[:, asked.tokens.shape[1] :].tolist()
    steps = [draw.integer(0, NEW - 1) for _ in texts]
    stop = [text[step] for text, step in zip(texts, steps, strict=True)]
    _must_end(asked, implementation, handle, free, draw.choice([stop, stop[::-1]]), use_cache)


@CLAIMS.claim(examples=5)
def the_text_ends_when_its_last_row_does(implementation: Generate, draw: Draw) -> None:
    """The first row ends at once, the others go on: none takes another with it, and nothing goes on behind the last."""
    asked, use_cache = drawn(draw), cached(draw)
    handle = built(implementation, asked)
    free = asked.ask(implementation, handle, use_cache)
    texts = free[:, asked.tokens.shape[1] :].tolist()
    steps = (0, draw.integer(1, 2), draw.integer(3, NEW - 1))
    order = draw.choice([(0, 1, 2), (2, 0, 1)] if len(texts) > 1 else [(0,)])
    _must_end(asked, implementation, handle, free, [texts[row][steps[i]] for i, row in enumerate(order)], use_cache)


@CLAIMS.claim(examples=5)
def a_stop_id_in_the_prompt_ends_nothing(implementation: Generate, draw: Draw) -> None:
    asked, use_cache = drawn(draw), cached(draw)
    handle = built(implementation, asked)
    free = asked.ask(implementation, handle, use_cache)
    column = draw.integer(max(PADDING), asked.tokens.shape[1] - 1)
    _must_end(asked, implementation, handle, free, asked.tokens[:, column].tolist(), use_cache)


def _must_end(
    asked: Prompt, implementation: Generate, handle: Handle, free: Tensor, stop: list[int], use_cache: bool
) -> None:
    """The text with these stop ids is the free one, up to where the last row ends."""
    T = asked.tokens.shape[1]
    stopping = replace(asked, stop=stop)
    ends = max(stopping.length(row) or asked.new for row in free[:, T:].tolist())
    answer = stopping.ask(implementation, handle, use_cache)
    must_be_the_same(stopping, answer, stopping.settled(free[:, : T + ends]))


@CLAIMS.claim(examples=1)
def the_configurations_stop_ids_stop_nothing(implementation: Generate, draw: Draw) -> None:
    asked = prompt(hard(draw), seed=0, length=9)
    other = replace(asked, config=asked.config | {"eos_token_id": list(range(asked.config["vocab_size"]))})
    use_cache = draw.profile.cache
    answer = other.ask(implementation, built(implementation, other), use_cache)
    free = asked.ask(implementation, built(implementation, asked), use_cache)
    assert torch.equal(answer, free)


@CLAIMS.claim(examples=5)
def fewer_tokens_are_the_beginning_of_more(implementation: Generate, draw: Draw) -> None:
    asked, use_cache = drawn(draw), cached(draw)
    handle = built(implementation, asked)
    few = draw.choice([1, draw.integer(2, NEW - 1)])
    less = asked.ask(implementation, handle, use_cache, new=few)
    more = asked.ask(implementation, handle, use_cache, new=NEW)
    T = asked.tokens.shape[1]
    assert less.shape == (len(asked.tokens), T + few)
    assert more.shape == (len(asked.tokens), T + NEW)
    assert torch.equal(more[:, :T], asked.tokens)
    assert torch.equal(less, more[:, : T + few])


@CLAIMS.claim(examples=5)
def no_tokens_are_the_prompt(implementation: Generate, draw: Draw) -> None:
    asked = drawn(draw)
    answer = asked.ask(implementation, built(implementation, asked), cached(draw), new=0)
    assert torch.equal(answer, asked.tokens)


@CLAIMS.claim(examples=5, needs=("padding", "batch"))
def a_padded_row_goes_on_as_it_does_alone(implementation: Generate, draw: Draw) -> None:
    asked = drawn(draw, steady(draw))
    row = draw.integer(0, len(PADDING) - 1)
    use_cache = cached(draw)
    handle = built(implementation, asked)
    T = asked.tokens.shape[1]
    together = asked.ask(implementation, handle, use_cache)[row : row + 1, PADDING[row] :]
    tokens = asked.tokens[row : row + 1, PADDING[row] :]
    single = replace(asked, tokens=tokens, mask=None)
    alone = single.ask(implementation, handle, use_cache)
    assert alone.shape[1] == T - PADDING[row] + NEW
    must_be_the_same(single, alone, together)


@CLAIMS.claim(examples=1)
def greedy_decoding_throws_no_dice(implementation: Generate, draw: Draw) -> None:
    asked = prompt(hard(draw), seed=0, length=9)
    handle = built(implementation, asked)
    state = torch.get_rng_state()
    first = asked.ask(implementation, handle, draw.profile.cache)
    again = asked.ask(implementation, handle, draw.profile.cache)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)


@CLAIMS.claim(examples=1)
def arguments_are_not_written_into(implementation: Generate, draw: Draw) -> None:
    asked = prompt(hard(draw), seed=0, length=9)
    tokens = asked.tokens.clone()
    mask = None if asked.mask is None else asked.mask.clone()
    implementation.generate(built(implementation, asked), tokens, mask, NEW, draw.profile.cache)
    assert torch.equal(tokens, asked.tokens)
    assert mask is None or torch.equal(mask, asked.real)
