"""Claims about greedy decoding. Where two texts should be the same and are not, only a tie may have been broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Generate, Handle
from llama_reference.questions import greedy
from llama_reference.questions.greedy import Prompt
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard import oracle
from llama_reference.standard.cases import HARD, weights

CLAIMS = Claims("generate")

CONFIG = HARD | {"num_hidden_layers": 2}  # many tokens are generated: a layer less, and few at a time
PADDING = (2, 0, 5)
NEW = 6


def prompt(seed: int, length: int) -> Prompt:
    """Rows padded on the left by different lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(CONFIG["vocab_size"], (len(PADDING), length), generator=generator)
    mask = (torch.arange(length) >= torch.tensor(PADDING)[:, None]).long()
    return Prompt(CONFIG, weights(CONFIG, seed), torch.float32, tokens, mask, NEW)


def drawn(draw: Draw) -> Prompt:
    return prompt(draw.integer(0, 2**16), draw.integer(6, 24))


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


@CLAIMS.claim(examples=10)
def cached_equals_uncached(implementation: Generate, draw: Draw) -> None:
    asked = drawn(draw)
    handle = built(implementation, asked)
    must_be_the_same(asked, *(asked.ask(implementation, handle, use_cache) for use_cache in (True, False)))


@CLAIMS.claim(examples=10)
def each_of_several_stop_ids_ends_a_row(implementation: Generate, draw: Draw) -> None:
    """One id of each row's own text, in any order, so that rows end at different steps; a late one may stand first."""
    asked, use_cache = drawn(draw), draw.choice([True, False])
    handle = built(implementation, asked)
    free = asked.ask(implementation, handle, use_cache)
    texts = free[:, asked.tokens.shape[1] :].tolist()
    steps = [draw.integer(0, NEW - 1) for _ in PADDING]
    stop = [text[step] for text, step in zip(texts, steps, strict=True)]
    _must_end(asked, implementation, handle, free, draw.choice([stop, stop[::-1]]), use_cache)


@CLAIMS.claim(examples=5)
def the_text_ends_when_its_last_row_does(implementation: Generate, draw: Draw) -> None:
    """The first row ends at once, the others go on: none takes another with it, and nothing goes on behind the last."""
    asked, use_cache = drawn(draw), draw.choice([True, False])
    handle = built(implementation, asked)
    free = asked.ask(implementation, handle, use_cache)
    texts = free[:, asked.tokens.shape[1] :].tolist()
    steps = (0, draw.integer(1, 2), draw.integer(3, NEW - 1))
    order = draw.choice([(0, 1, 2), (2, 0, 1)])
    _must_end(asked, implementation, handle, free, [texts[row][steps[i]] for i, row in enumerate(order)], use_cache)


@CLAIMS.claim(examples=5)
def a_stop_id_in_the_prompt_ends_nothing(implementation: Generate, draw: Draw) -> None:
    asked, use_cache = drawn(draw), draw.choice([True, False])
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
def the_configurations_stop_ids_stop_nothing(implementation: Generate, _draw: Draw) -> None:
    asked = prompt(seed=0, length=9)
    other = replace(asked, config=CONFIG | {"eos_token_id": list(range(CONFIG["vocab_size"]))})
    answer, free = (x.ask(implementation, built(implementation, x), use_cache=True) for x in (other, asked))
    assert torch.equal(answer, free)


@CLAIMS.claim(examples=5)
def fewer_tokens_are_the_beginning_of_more(implementation: Generate, draw: Draw) -> None:
    asked, use_cache = drawn(draw), draw.choice([True, False])
    handle = built(implementation, asked)
    few = draw.choice([1, draw.integer(2, NEW - 1)])
    less, more = (asked.ask(implementation, handle, use_cache, new=new) for new in (few, NEW))
    T = asked.tokens.shape[1]
    assert less.shape == (len(PADDING), T + few)
    assert more.shape == (len(PADDING), T + NEW)
    assert torch.equal(more[:, :T], asked.tokens)
    assert torch.equal(less, more[:, : T + few])


@CLAIMS.claim(examples=5)
def no_tokens_are_the_prompt(implementation: Generate, draw: Draw) -> None:
    asked = drawn(draw)
    answer = asked.ask(implementation, built(implementation, asked), draw.choice([True, False]), new=0)
    assert torch.equal(answer, asked.tokens)


@CLAIMS.claim(examples=5)
def a_padded_row_goes_on_as_it_does_alone(implementation: Generate, draw: Draw) -> None:
    asked, row, use_cache = drawn(draw), draw.integer(0, len(PADDING) - 1), draw.choice([True, False])
    handle, T = built(implementation, asked), asked.tokens.shape[1]
    together = asked.ask(implementation, handle, use_cache)[row : row + 1, PADDING[row] :]
    tokens = asked.tokens[row : row + 1, PADDING[row] :]
    single = replace(asked, tokens=tokens, mask=None)
    alone = single.ask(implementation, handle, use_cache)
    assert alone.shape[1] == T - PADDING[row] + NEW
    must_be_the_same(single, alone, together)


@CLAIMS.claim(examples=1)
def greedy_decoding_throws_no_dice(implementation: Generate, _draw: Draw) -> None:
    asked = prompt(seed=0, length=9)
    handle, state = built(implementation, asked), torch.get_rng_state()
    first, again = (asked.ask(implementation, handle, use_cache=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)


@CLAIMS.claim(examples=1)
def arguments_are_not_written_into(implementation: Generate, _draw: Draw) -> None:
    asked = prompt(seed=0, length=9)
    tokens, mask = asked.tokens.clone(), asked.real.clone()
    implementation.generate(built(implementation, asked), tokens, mask, NEW, use_cache=True)
    assert torch.equal(tokens, asked.tokens)
    assert torch.equal(mask, asked.real)
