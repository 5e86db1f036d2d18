"""Greedy tokens behind a padded batch of prompts, with the cache and without, and where stop ids end them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import permutations

import torch
from torch import Tensor

from llama_reference.implementation import Generate, offers
from llama_reference.questions import greedy
from llama_reference.questions.greedy import Prompt
from llama_reference.standard import oracle
from llama_reference.standard.budget import Verdict
from llama_reference.standard.cases import Case

VARIANTS = ("hard", "one group", "tied")
PADDING = (2, 0, 5)
LENGTH, NEW = 9, 12


def prompt(case: Case) -> Prompt:
    """Rows padded on the left by different lengths."""
    rows = len(PADDING) if case.profile.batch else 1
    mask = (torch.arange(LENGTH) >= torch.tensor(PADDING[:rows])[:, None]).long() if case.profile.padding else None
    return Prompt(case.config, case.state, case.dtype, case.tokens[:rows, :LENGTH], mask, NEW)


def questions(case: Case) -> Iterator[tuple[str, Prompt, bool]]:
    """(label, prompt, with the cache?)."""
    padded, cached = prompt(case), case.profile.cache
    if cached:
        yield "cached", padded, True
    yield "uncached", padded, False
    if case.profile.padding:
        yield "no padding", replace(padded, mask=None), cached
    every = case.config | {"eos_token_id": list(range(case.config["vocab_size"]))}
    yield "stop ids of the configuration", replace(padded, config=every, new=3), cached
    stop = stop_ids(case)
    yield "stop ids", replace(padded, stop=stop), cached
    mask = padded.real[:1] if case.profile.padding else None
    yield "one row and stop id", replace(padded, tokens=padded.tokens[:1], mask=mask, stop=stop[-1:]), False


@lru_cache(maxsize=64)
def stop_ids(case: Case) -> tuple[int, ...]:
    """Stop ids: one that occurs only in a prompt and must stop nothing, and one from each row's text.

    They are chosen so that rows stop at different steps, the first row neither first nor last.
    """
    padded = prompt(case)
    handle = oracle.build(case.config, case.state, case.dtype)
    texts = padded.ask(oracle, handle, True)[:, LENGTH:].tolist()

    def ids(steps: tuple[int, ...]) -> list[int]:
        return [text[step] for text, step in zip(texts, steps, strict=True)]

    def ends(steps: tuple[int, ...]) -> list[int]:
        return [next(t for t, token in enumerate(text) if token in ids(steps)) for text in texts]

    best = max(permutations((5, 9, 2, 7, 1, 8), len(texts)), key=lambda steps: len(set(ends(steps))))
    said = {token for text in texts for token in text}
    silent = [int(token) for token in padded.tokens[:, -1] if int(token) not in said]
    return *silent[:1], *reversed(ids(best))


def ask(implementation: Generate, case: Case) -> dict[str, Tensor]:
    """Settled ids; those with stop ids are left out where generate takes none."""
    stops = offers(implementation, "generate", "stop")
    return {
        label: asked.ask(implementation, implementation.build(asked.config, asked.state, asked.dtype), use_cache)
        for label, asked, use_cache in questions(case)
        if stops or not asked.stop
    }


def judge(case: Case, answers: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[Verdict]:
    """A tie that is broken otherwise than transformers breaks it is no mistake."""
    asked = {label: prompt for label, prompt, _ in questions(case)}
    return [greedy.judge(label, asked[label], answer, theirs[label]) for label, answer in answers.items()]
