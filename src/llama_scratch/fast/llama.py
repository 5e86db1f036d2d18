"""A model whose single tokens take the compiled step, and where that is expected to pay.

A prompt goes through the textbook model with PyTorch's fused attention, in chunks. On other devices than a CPU, without
a compiler, and in float64, where float32 between the weights would lose digits, the textbook model decodes as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_leaves

from llama_scratch.fast import kernel
from llama_scratch.fast.compiled import CompileError, can_compile, kind, load
from llama_scratch.fast.pages import use_large_pages
from llama_scratch.fast.sdpa import using_sdpa
from llama_scratch.model.attention import causal_mask
from llama_scratch.model.config import LlamaConfig, Logits, Padding, Positions, Tokens
from llama_scratch.model.kv_cache import KVCache, LayerCache
from llama_scratch.model.llama import Llama, next_positions
from llama_scratch.model.rotary import LENGTH_MATTERS, angles, rotate

CHUNK = 512  # tokens of a prompt at once: scores of T × S would else grow with the square of its length
BYTES_PER_SECOND = 15e9  # at which the textbook reads weights, one text at a time: 11 to 18 on the machines of NOTES.md
SAVED = 2 / 3  # of that time
SECONDS, SECONDS_A_LAYER = 12.0, 2.0  # of compiling, measured there

log = logging.getLogger("llama_scratch")


class _LayerCache(LayerCache):
    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Values with a position's channels side by side: PyTorch's fused attention is three times as slow without."""
        keys, values = super().append(k, v)
        return keys, v if self.filled == 0 else values.contiguous()


class StaticCache(KVCache):
    """A KVCache with what each step needs of every position. In memory the positions of a channel of the values lie
    side by side, (L, B, G, H, room), for that is how a step sums them (benchmarks/NOTES.md).
    """

    def __init__(self, config: LlamaConfig, batch_size: int, max_length: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:  # fmt: skip
        super().__init__(config, batch_size, max_length, dtype, device)
        use_large_pages([self.keys, self.by_channel])
        self.columns = torch.arange(max_length, device=device)
        self.rotations: Tensor | None = None  # of every position, (max_length, 2, H)
        if config.rope_parameters["rope_type"] not in LENGTH_MATTERS:
            self.rotations = kernel.signed(angles(config, self.columns[:, None], torch.float32))
        self._cut()

    @property
    def values(self) -> Tensor:
        """(L, B, G, room, H), a view."""
        return self.by_channel.mT

    @values.setter
    def values(self, values: Tensor) -> None:
        self.by_channel = values.mT.contiguous()

    def __iter__(self) -> Iterator[LayerCache]:
        return (_LayerCache(k, v, self.length) for k, v in zip(self.keys, self.values, strict=True))

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        super().reorder(rows)
        self._cut()

    def _cut(self) -> None:
        """As a step takes them: each layer's buffers; and which row of `rotations` each text has at each position,
        (max_length, B), where nothing is padding.
        """
        self.buffers = [*self.keys.unbind(), *self.by_channel.unbind()]
        self.rows = self.columns[:, None].repeat(1, self.keys.shape[1])


class FastLlama:
    """Takes the place of `model` where text is decoded token by token; called as a Llama is.

    Weights are the model's own tensors: nothing is copied. The step is compiled at the first single token, or by
    `compiled`, unless an earlier process has: one text and several (2 or more) are two compilations, with padding or
    without are two, a growing length is none.
    """

    def __init__(self, model: Llama) -> None:
        self.model, self.config = model, model.config
        self.weights = kernel.weights(model)
        self._tensors = [tensor.contiguous() for tensor in tree_leaves(tuple(self.weights)) if tensor is not None]
        use_large_pages(self._tensors)
        self._steps: dict[tuple[bool, bool], Callable[[list[Tensor]], list[Tensor]]] = {}

    def new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        weight = self.model.lm_head.weight
        return StaticCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    def __call__(self, tokens: Tokens, cache: KVCache | None = None, attention_mask: Padding | None = None,
                 positions: Positions | None = None, last_only: bool = False) -> Logits:  # fmt: skip
        """As Llama.forward. Compiled for single tokens after others in a StaticCache."""
        if not isinstance(cache, StaticCache):
            with torch.no_grad():
                return self.model(tokens, cache, attention_mask, positions, last_only)
        B, S = len(tokens), cache.length + tokens.shape[1]
        if attention_mask is not None and attention_mask.shape != (B, S):
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {B, S}: (batch, cached + new)")
        if tokens.shape[1] == 1 and cache.length > 0:
            return self._next(tokens, cache, attention_mask, positions)
        read = self._last_of_prompt if last_only else self.model
        chunks, start = [], cache.length
        with torch.no_grad(), using_sdpa(self.model, True):
            for i in range(0, tokens.shape[1], CHUNK):
                mask = None if attention_mask is None else attention_mask[:, : start + i + CHUNK]
                at = None if positions is None else positions[:, i : i + CHUNK]
                chunks.append(read(tokens[:, i : i + CHUNK], cache, mask, at))
        return chunks[-1] if last_only else torch.cat(chunks, dim=1)

    def _last_of_prompt(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        """Logits after the last token: of the others nothing but keys and values is asked of the last layer."""
        T, S = tokens.shape[1], cache.length + tokens.shape[1]
        decoder = self.model.model
        positions = next_positions(T, S, attention_mask, tokens.device) if positions is None else positions
        mask, x = causal_mask(T, S, attention_mask, tokens.device), decoder.embed_tokens(tokens)
        rotation = angles(self.config, positions, x.dtype)
        last: Any
        (*layers, last), (*caches, last_cache) = decoder.layers, cache
        for layer, layer_cache in zip(layers, caches, strict=True):
            x = layer(x, rotation, mask, layer_cache)
        before = last.input_layernorm(x[:, :-1])
        projections = last.self_attn.k_proj, last.self_attn.v_proj
        k, v = (project(before).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for project in projections)
        last_cache.append(rotate(k, rotation[:, :, :-1]), v)
        filled = _LayerCache(last_cache.keys, last_cache.values, S - 1)
        x = last(x[:, -1:], rotation[:, :, -1:], mask[:, :, -1:], filled)
        cache.advance(T)
        return self.model.lm_head(decoder.norm(x))

    def compiled(self, several: bool, padded: bool) -> Callable[[list[Tensor]], list[Tensor]]:
        """The step for such calls. Raises CompileError, and OSError where it cannot be kept."""
        if (several, padded) not in self._steps:
            self._steps[several, padded] = load(kind(self.config, self.weights.head.dtype, several, padded))
        return self._steps[several, padded]

    def _next(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        """As few operations as can be: beside the weights nothing is left in the processor's caches, and each takes ten
        times as long there.
        """
        B, S = len(tokens), cache.length + 1
        if len(cache.columns) < S:
            raise ValueError(f"{S - 1} cached + 1 new positions exceed the cache's max_length {len(cache.columns)}")
        rotations, rows = cache.rotations, cache.rows[S - 1]
        if attention_mask is not None:
            rows = next_positions(1, S, attention_mask, tokens.device)[:, 0]
        if positions is not None or rotations is None:
            positions = rows[:, None] if positions is None else positions.expand(B, 1)
            rotations, rows = kernel.signed(angles(self.config, positions, torch.float32)), torch.arange(B)
        inputs = [tokens, rotations, rows, cache.columns[:S]]
        if attention_mask is not None:
            inputs.append(attention_mask.bool())
        inputs = [x.contiguous() for x in inputs]  # machine code asks nobody for strides
        run = self.compiled(B > 1, attention_mask is not None)
        (logits,) = run([*self._tensors, *inputs, *cache.buffers])
        cache.advance(1)
        return logits


def pays_from(model: Llama, several: bool = False, padded: bool = False) -> int:
    """From how many new tokens on compiling the step is expected to save more time than it takes."""
    weights = [*model.model.layers.parameters(), model.lm_head.weight]
    if kind(model.config, weights[-1].dtype, several, padded).path.exists():
        return 1
    saved = sum(p.numel() * p.element_size() for p in weights) / BYTES_PER_SECOND * SAVED
    return int((SECONDS + SECONDS_A_LAYER * len(model.model.layers)) / saved) + 1


def for_decoding(
    model: Llama, fast: bool | None, new_tokens: int, batch: int, padded: bool, longest: int | None = None
) -> Llama | FastLlama:
    """The model, or what is faster: as asked, or (None) where that is expected to pay. The choice goes to the log,
    unless nothing was asked and a text of `longest` tokens, all that the model can write, would not pay either.
    """
    if fast is False:
        return model
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype == torch.float64 or not can_compile():
        found = f"{weight.dtype} on {weight.device}" if can_compile() else "there is no g++ or clang++"
        log.log(logging.WARNING if fast else logging.INFO, "decoding without compiling: %s", found)
        return model
    needed = pays_from(model, batch > 1, padded)
    if fast is None and new_tokens < needed:
        if longest is None or needed < longest:
            told = "decoding without compiling, which takes a while once and would pay from %s new tokens on"
            log.info(told, f"{needed:,}")
        return model
    quick = FastLlama(model)
    try:
        quick.compiled(batch > 1, padded)
    except (CompileError, OSError) as error:
        log.warning("decoding without compiling: %s", error)
        return model
    return quick
