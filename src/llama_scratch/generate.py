"""One decoding loop, with the cache or without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_scratch.config import Padding, Tokens
from llama_scratch.kv_cache import KVCache
from llama_scratch.llama import Llama


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
) -> Int[Tensor, "B T_and_new"]:
    """`tokens` followed by up to `max_new_tokens` new ones, the prompt included, as transformers' `generate`.

    temperature 0 takes the likeliest token, a higher one samples from softmax(logits / temperature). A row stops at a
    stop id (None: the configuration's eos_token_id; []: never) and is filled with pad_token_id, or else the first stop
    id, until every row has stopped. Prompts of different lengths are padded on the left, with an attention_mask.
    Raises ValueError for an empty prompt, an id outside the vocabulary, a negative count or temperature.
    """
    _check(tokens, model.config.vocab_size, max_new_tokens, temperature)
    stops = _stop_ids(model) if stop_ids is None else list(stop_ids)
    filler = model.config.pad_token_id if model.config.pad_token_id is not None else (stops or [0])[0]
    B, T = tokens.shape
    weight = model.lm_head.weight
    cache = KVCache(model.config, B, T + max_new_tokens, weight.dtype, weight.device) if use_cache else None
    running = torch.ones(B, dtype=torch.bool, device=tokens.device)
    was_training = model.training
    model.eval()
    for _ in range(max_new_tokens):
        unseen = tokens[:, cache.length :] if cache is not None else tokens
        chosen = choose(model(unseen, cache, attention_mask)[:, -1], temperature, generator)
        chosen = chosen.where(running, torch.full_like(chosen, filler))
        tokens = torch.cat((tokens, chosen[:, None]), dim=1)
        if attention_mask is not None:
            attention_mask = torch.cat((attention_mask, torch.ones_like(attention_mask[:, :1])), dim=1)
        running &= ~torch.isin(chosen, torch.tensor(stops, dtype=torch.long, device=tokens.device))
        if not running.any():
            break
    model.train(was_training)
    return tokens


def choose(
    logits: Float[Tensor, "B V"], temperature: float, generator: torch.Generator | None = None
) -> Int[Tensor, " B"]:
    """The next token of every row."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _stop_ids(model: Llama) -> list[int]:
    eos = model.config.eos_token_id
    return eos if isinstance(eos, list) else [eos] if eos is not None else []


def _check(tokens: Tensor, vocab_size: int, max_new_tokens: int, temperature: float) -> None:
    if tokens.shape[1] == 0:
        raise ValueError("the prompt is empty: give at least one token, for instance BOS")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        found = f"{int(tokens.min())} to {int(tokens.max())}"
        raise ValueError(f"the prompt's ids run from {found}, expected 0 to vocab_size - 1 = {vocab_size - 1}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected 0 or more")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy) or a positive number")
