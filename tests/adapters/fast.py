"""fast/, behind the protocol of llama_reference.implementation: the functions that its step is made of, and the step.

Every sequence is taken token by token. Without a cache rows are asked one at a time, with one all at once: one text and
several are compiled apart. It computes in float32 and rounds at the end, so its bits are its own; and no gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import llama_scratch
from llama_reference.implementation import Config, State
from llama_scratch.fast import FastLlama, StaticCache, kernel
from llama_scratch.fast.compiled import CACHE_DIR_VARIABLE
from llama_scratch.model.rotary import LENGTH_MATTERS, angles
from tests.adapters import ours

BITWISE = False
crop, loss, reorder, sampling = ours.crop, ours.loss, ours.reorder, ours.sampling  # the textbook's
# kept from run to run: compiling takes far longer than asking
os.environ[CACHE_DIR_VARIABLE] = str(Path(__file__).parents[2] / ".pytest_cache" / "steps")


def build(config: Config, state: State, dtype: torch.dtype) -> FastLlama:
    return FastLlama(ours.build(config, state, dtype).requires_grad_(False))


def rms_norm(handle: FastLlama, where: str, x: Tensor) -> Tensor:
    weight = handle.model.get_parameter(where + ".weight")
    rows = x.float().flatten(0, -2)
    return kernel.norm(rows, weight, handle.config.rms_norm_eps).view(x.shape).to(x.dtype)


def rotary(handle: FastLlama, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    B, T = q.shape[0], q.shape[2]
    rotation = kernel.sign_folded(
        angles(handle.config, positions, torch.float32).expand(2, B, -1, -1).reshape(2, B * T, 1, -1)
    )

    def turn(x: Tensor) -> Tensor:
        rows = x.float().transpose(1, 2).flatten(0, 1)
        return kernel.rotate(rows, rotation).view(B, T, *rows.shape[1:]).transpose(1, 2).to(x.dtype)

    return turn(q), turn(k)


def swiglu(handle: FastLlama, layer: int, x: Tensor) -> Tensor:
    rows = x.float().flatten(0, -2).split(1)
    w = handle.weights.layers[layer]
    return torch.cat([kernel.swiglu(w, row, handle.config.hidden_act) for row in rows]).view(x.shape).to(x.dtype)


def attention(
    handle: FastLlama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache | None = None
) -> Tensor:
    w = handle.weights.layers[layer]
    steps = [kernel.attention(w, row, *others) for row, others in _rows(handle, layer, x, positions, mask, cache)]
    return torch.stack(steps, dim=1).to(x.dtype)


def block(
    handle: FastLlama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache | None = None
) -> Tensor:
    w = handle.weights.layers[layer]
    eps = handle.config.rms_norm_eps
    act = handle.config.hidden_act
    rows = _rows(handle, layer, x, positions, mask, cache)
    steps = [kernel.block(w, row, eps, act, *others) for row, others in rows]
    return torch.stack(steps, dim=1).to(x.dtype)


def _rows(
    handle: FastLlama, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache | None
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]]]:
    """X and what the step hands to a layer beside it, position by position."""
    B, T = x.shape[:2]
    cache = cache if cache is not None else new_cache(handle, B, T)
    rotation = angles(handle.config, positions, torch.float32).expand(2, B, -1, -1)
    for t in range(T):
        S = cache.length + 1
        seen = None if mask is None else mask[:, :S].bool()
        stored = cache.keys[layer], cache.by_channel[layer]
        yield x[:, t].float(), (kernel.sign_folded(rotation[:, :, t : t + 1]), cache.columns[:S], seen, *stored)
        cache.advance(1)


def llama(
    handle: FastLlama, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache | None = None
) -> Tensor:
    B, T = tokens.shape
    if cache is not None:
        return torch.cat([*_parts(handle, tokens, positions, mask, cache)], dim=1)
    if handle.config.rope_parameters["rope_type"] in LENGTH_MATTERS:  # frequencies follow the longest row
        return handle(tokens, new_cache(handle, B, T), mask, positions)
    answers = []
    for row in (slice(r, r + 1) for r in range(B)):
        seen = None if mask is None else mask[row]
        answers.append(llama(handle, tokens[row], positions.expand(B, T)[row], seen, new_cache(handle, 1, T)))
    return torch.cat(answers)


def _parts(
    handle: FastLlama, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: StaticCache
) -> Iterator[Tensor]:
    """Half at once, as a prompt, and the rest one by one; all at once where frequencies follow the longest call."""
    T = tokens.shape[1]
    half = T if handle.config.rope_parameters["rope_type"] in LENGTH_MATTERS else (T + 1) // 2
    for start, end in [(0, half), *((t, t + 1) for t in range(half, T))]:
        seen = None if mask is None else mask[:, : cache.length + end - start]
        yield handle(tokens[:, start:end], cache, seen, positions[:, start:end])


def new_cache(handle: FastLlama, batch: int, length: int) -> StaticCache:
    return handle.new_cache(batch, length)


def generate(
    handle: FastLlama, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
) -> Tensor:
    return llama_scratch.generate(
        handle.model, tokens, new, use_cache=use_cache, attention_mask=mask, stop_ids=stop, fast=True
    )
