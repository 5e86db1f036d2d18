"""Ours, fast and transformers as decoders of the same random model, and the cost that the shapes predict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
import transformers
from torch import Tensor

from docs.real_models import cache_bytes, forward_flops, matrices
from llama_reference.standard import budget
from llama_scratch import Llama, LlamaConfig, generate
from llama_scratch.checkpoint import config_file

SIZES = {  # hidden_size, intermediate_size, layers, heads; vocabulary 32,000, as llama2.c's stories15M and stories110M
    "24M": (288, 768, 6, 6),
    "134M": (768, 2048, 12, 12),
}
NAMES = ("textbook", "transformers", "fast")
Decode = Callable[[Tensor, int], Tensor]  # (prompt, new) -> prompt and new


@cache
def _models(size: str, dtype: torch.dtype) -> tuple[Llama, transformers.LlamaForCausalLM]:
    D, F, L, N = SIZES[size]
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=D,
            intermediate_size=F,
            num_hidden_layers=L,
            num_attention_heads=N,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    theirs = theirs.to(dtype).eval().requires_grad_(False)
    # attention by PyTorch's fused kernel, as transformers computes it unless told otherwise
    ours = Llama(config_file.from_dict(theirs.config.to_dict()), sdpa=True).to(dtype).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def model(size: str, dtype: torch.dtype) -> Llama:
    return _models(size, dtype)[0]


def decoders(size: str, dtype: torch.dtype) -> dict[str, Decode]:
    """Greedy decoding of exactly so many tokens, each in its usual way: transformers' `generate` with its defaults."""
    ours, theirs = _models(size, dtype)

    def transformers_(prompt: Tensor, new: int) -> Tensor:
        return theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, pad_token_id=0
        )

    return {
        "textbook": lambda prompt, new: generate(ours, prompt, new, stop_ids=[], fast=False),
        "transformers": transformers_,
        "fast": lambda prompt, new: generate(ours, prompt, new, stop_ids=[], fast=True),
    }


def step_bytes(config: LlamaConfig, dtype: torch.dtype, batch: int, length: int) -> int:
    """What one step must read: every matrix once, and keys and values of every text."""
    return matrices(config) * dtype.itemsize + batch * cache_bytes(config, length, dtype.itemsize)


def step_flops(config: LlamaConfig, batch: int, length: int) -> int:
    return batch * forward_flops(config, 1, length)


def prompt_flops(config: LlamaConfig, length: int) -> int:
    """Of a prompt whose last token only is asked for the next one: one row of the head."""
    return forward_flops(config, length) - 2 * (length - 1) * config.vocab_size * config.hidden_size


def check_same(llama: Llama, texts: dict[str, Tensor]) -> dict[str, int]:
    """Every decoder's text must be the textbook's, up to a first token that was as good as tied. Returns how many rows
    ended in a tie. Raises AssertionError, naming the decoder and the token.
    """
    expected = texts["textbook"]
    return {
        name: sum(ends_in_a_tie(llama, *rows, name) for rows in zip(expected, text, strict=True))
        for name, text in texts.items()
    }


@torch.no_grad()
def ends_in_a_tie(llama: Llama, expected: Tensor, found: Tensor, name: str) -> bool:
    if torch.equal(expected, found):
        return False
    t = int((expected != found).nonzero()[0])
    one, other = int(expected[t]), int(found[t])
    logits = llama(expected[None, :t], last_only=True)[0, -1]
    exact = copy.deepcopy(llama).double()(expected[None, :t], last_only=True)[0, -1]
    gap = (exact[one] - exact[other]).item()
    assert budget.is_tie(logits, exact, one, other), f"{name}: token {t} is {other}, expected {one}, {gap:.3g} likelier"
    return True
