"""One decoding loop, with the cache or without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llama_scratch.config import Padding, Tokens
from llama_scratch.fast import FastLlama, can_compile
from llama_scratch.kv_cache import KVCache
from llama_scratch.llama import Llama
from llama_scratch.sampling import Sampling, next_token_probabilities


@torch.no_grad()
def generate(
    model: Llama,
    tokens: Tokens,
    max_new_tokens: int,
    temperature: float = 0.0,
    use_cache: bool = True,
    attention_mask: Padding | None = None,
    stop_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    fast: bool = False,
) -> Int[Tensor, "B T_and_new"]:
    """`tokens` followed by up to `max_new_tokens` new ones, the prompt included, as transformers' `generate`.

    temperature 0 takes the likeliest token, a higher one samples; sampling.py has the knobs, all of them off at None.
    A row stops at a stop id (None: the configuration's eos_token_id; []: never) and is filled with pad_token_id, or
    else the first stop id, until every row has stopped. Prompts of different lengths are padded on the left, with an
    attention_mask. `fast` compiles the step of one unpadded text over a cache (fast.py): some ten seconds once, then a
    token costs about a third on a CPU. Raises ValueError for a prompt that this cannot go on from, a negative count, a
    knob out of range.
    """
    _check(tokens, attention_mask, model.config.vocab_size, max_new_tokens)
    knobs = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    stops, filler = _stops_and_filler(model, stop_ids)
    step = _fast(model) if fast else model
    cache = _empty_cache(step, len(tokens), tokens.shape[1] + max_new_tokens) if use_cache else None
    running = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    with _evaluating(model):
        for _ in range(max_new_tokens):
            unseen = tokens[:, cache.length :] if cache is not None else tokens
            chosen = choose(step(unseen, cache, attention_mask)[:, -1], tokens, knobs, attention_mask, generator)
            chosen = chosen.where(running, filler)
            tokens = torch.cat((tokens, chosen[:, None]), dim=1)
            if attention_mask is not None:
                attention_mask = F.pad(attention_mask, (0, 1), value=1)
            running &= ~torch.isin(chosen, stops)
            if not running.any():
                break
    return tokens


def choose(
    logits: Float[Tensor, "B V"],
    tokens: Tokens,
    knobs: Sampling,
    attention_mask: Int[Tensor, "B T"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """The next token of every row."""
    probabilities = next_token_probabilities(logits, tokens, knobs, attention_mask)
    if knobs.temperature == 0:
        return probabilities.argmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again, even if the model has raised."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _fast(model: Llama) -> Llama | FastLlama:
    if can_compile():
        return FastLlama(model)
    warnings.warn("fast=True needs a C++ compiler (g++ or clang++): decoding without it", stacklevel=3)
    return model


def _empty_cache(model: Llama | FastLlama, batch: int, length: int) -> KVCache:
    if isinstance(model, FastLlama):
        return model.new_cache(batch, length)
    weight = model.lm_head.weight
    return KVCache(model.config, batch, length, weight.dtype, weight.device)


def _stops_and_filler(model: Llama, stop_ids: Sequence[int] | None) -> tuple[Tensor, int]:
    eos, filler = model.config.eos_token_id, model.config.pad_token_id
    if stop_ids is None:
        stop_ids = eos if isinstance(eos, list) else [eos] if eos is not None else []
    stops = torch.tensor(stop_ids, dtype=torch.long, device=model.lm_head.weight.device)
    return stops, filler if filler is not None else [*stop_ids, 0][0]


def _check(tokens: Tensor, attention_mask: Tensor | None, vocab_size: int, max_new_tokens: int) -> None:
    if tokens.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token, for instance BOS")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        found = f"{int(tokens.min())} to {int(tokens.max())}"
        raise ValueError(f"the prompt's ids run from {found}, expected 0 to vocab_size - 1 = {vocab_size - 1}")
    if attention_mask is not None and not attention_mask[:, -1].all():
        rows = (attention_mask[:, -1] == 0).nonzero()[:, 0].tolist()
        raise ValueError(f"attention_mask ends in padding in rows {rows}, expected prompts padded on the left")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")
