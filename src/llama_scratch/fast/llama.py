"""A model whose single tokens take the compiled step, and the choice of where compiling is expected to pay.

A prompt goes through the textbook model with PyTorch's fused attention, in chunks. On devices other than a CPU, without
a C++ compiler, and in float64, where float32 activations would lose digits, the textbook model decodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from llama_scratch.fast import kernel
from llama_scratch.fast.compiled import CompileError, has_cpp_compiler, load, step_key
from llama_scratch.fast.pages import use_large_pages
from llama_scratch.fast.sdpa import using_sdpa
from llama_scratch.fast.static_cache import StaticCache, StaticLayerCache
from llama_scratch.model.attention import causal_mask, split_heads
from llama_scratch.model.config import Logits, Padding, Positions, Tokens
from llama_scratch.model.kv_cache import KVCache
from llama_scratch.model.llama import Llama, next_positions
from llama_scratch.model.rotary import angles, rotate

CHUNK = 512  # tokens of a prompt per call: the T × S scores would otherwise grow with the square of its length
BYTES_PER_SECOND = 15e9  # at which the textbook reads weights for one text: 11 to 18 on the machines of NOTES.md
SAVED = 2 / 3  # fraction of that time which the compiled step saves
SECONDS, SECONDS_PER_LAYER = 12.0, 2.0  # of compiling, measured on the same machines

log = logging.getLogger("llama_scratch")


@runtime_checkable  # shapes in signatures are checked in tests, and this with them
class Decoder(Protocol):
    """What the decoding loop needs of a model: Llama and FastLlama have it."""

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """Allocate an empty cache."""

    @property
    def __call__(self) -> Callable[..., Logits]:
        """Call the model as Llama.forward."""


class FastLlama:
    """Replaces `model` where text is decoded token by token; called like a Llama.

    Weights are the model's own tensors: nothing is copied. The step is compiled at the first single token, or by
    `compiled`, unless an earlier process has compiled it. There is one compilation for a single text and one for
    several (2 or more), each with padding and without; a growing length needs no other. A prompt is read in chunks of
    `chunk` tokens.
    """

    def __init__(self, model: Llama, chunk: int = CHUNK) -> None:
        self.model = model
        self.config = model.config
        self.weights = kernel.weights(model)
        self._chunk = chunk
        self._tensors = [tensor.contiguous() for tensor in self.weights.tensors()]
        use_large_pages(self._tensors)
        self._steps: dict[tuple[bool, bool], Callable[[list[Tensor]], list[Tensor]]] = {}

    def new_cache(self, batch_size: int, max_length: int) -> StaticCache:
        """Allocate an empty cache in the dtype and on the device of the weights."""
        weight = self.model.lm_head.weight
        return StaticCache(self.config, batch_size, max_length, weight.dtype, weight.device)

    def __call__(
        self,
        tokens: Tokens,
        cache: KVCache | None = None,
        attention_mask: Padding | None = None,
        positions: Positions | None = None,
        last_only: bool = False,
    ) -> Logits:
        """Compute what Llama.forward computes; single tokens after others in a StaticCache by the compiled step."""
        if not isinstance(cache, StaticCache):
            with torch.no_grad():
                return self.model(tokens, cache, attention_mask, positions, last_only)
        B, S = len(tokens), cache.length + tokens.shape[1]
        if attention_mask is not None and attention_mask.shape != (B, S):
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected {B, S}: (batch, cached + new)")
        if tokens.shape[1] == 1 and cache.length > 0:
            return self._next(tokens, cache, attention_mask, positions)
        read = self._last_of_prompt if last_only else self.model
        chunks = []
        start = cache.length
        with torch.no_grad(), using_sdpa(self.model, True):
            for i in range(0, tokens.shape[1], self._chunk):
                end = i + self._chunk
                mask = None if attention_mask is None else attention_mask[:, : start + end]
                chunk_positions = None if positions is None else positions[:, i:end]
                chunks.append(read(tokens[:, i:end], cache, mask, chunk_positions))
        return chunks[-1] if last_only else torch.cat(chunks, dim=1)

    def _last_of_prompt(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        """Logits after the last token: in the last layer the other tokens only need keys and values."""
        T, S = tokens.shape[1], cache.length + tokens.shape[1]
        decoder = self.model.model
        positions = next_positions(T, S, attention_mask, tokens.device) if positions is None else positions
        mask = causal_mask(T, S, attention_mask, tokens.device)
        x = decoder.embed_tokens(tokens)
        rotation = angles(self.config, positions, x.dtype)
        layers: list[Any] = list(decoder.layers)
        caches = list(cache)
        for layer, layer_cache in zip(layers[:-1], caches[:-1], strict=True):
            x = layer(x, rotation, mask, layer_cache)
        last, last_cache = layers[-1], caches[-1]
        others = last.input_layernorm(x[:, :-1])
        k = split_heads(last.self_attn.k_proj(others), self.config.head_dim)
        v = split_heads(last.self_attn.v_proj(others), self.config.head_dim)
        last_cache.append(rotate(k, rotation[:, :, :-1]), v)
        filled = StaticLayerCache(last_cache.keys, last_cache.values, S - 1)
        x = last(x[:, -1:], rotation[:, :, -1:], mask[:, :, -1:], filled)
        cache.advance(T)
        return self.model.lm_head(decoder.norm(x))

    def compiled(self, several: bool, padded: bool) -> Callable[[list[Tensor]], list[Tensor]]:
        """Load the step for such calls. Raises CompileError, and OSError if it cannot be kept."""
        if (several, padded) not in self._steps:
            self._steps[several, padded] = load(step_key(self.config, self.weights.head.dtype, several, padded))
        return self._steps[several, padded]

    def _next(
        self, tokens: Tensor, cache: StaticCache, attention_mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        """Run the compiled step with as few ops as possible: streaming the weights evicts the CPU caches, so each small
        op takes about ten times as long here.
        """
        B, S = len(tokens), cache.length + 1
        if len(cache.columns) < S:
            raise ValueError(f"{S - 1} cached + 1 new positions exceed the cache's max_length {len(cache.columns)}")
        rotations, rows = cache.rotations, cache.rows[S - 1]
        if attention_mask is not None:
            rows = next_positions(1, S, attention_mask, tokens.device)[:, 0]
        if positions is not None or rotations is None:
            positions = rows[:, None] if positions is None else positions.expand(B, 1)
            rotations = kernel.sign_folded(angles(self.config, positions, torch.float32))
            rows = torch.arange(B)
        inputs = [tokens, rotations, rows, cache.columns[:S]]
        if attention_mask is not None:
            inputs.append(attention_mask.bool())
        inputs = [x.contiguous() for x in inputs]  # machine code ignores strides
        run = self.compiled(B > 1, attention_mask is not None)
        (logits,) = run([*self._tensors, *inputs, *cache.buffers])
        cache.advance(1)
        return logits


def break_even_tokens(model: Llama, several: bool = False, padded: bool = False) -> int:
    """Estimate from how many new tokens on compiling the step saves more time than it takes."""
    weights = [*model.model.layers.parameters(), model.lm_head.weight]
    if step_key(model.config, weights[-1].dtype, several, padded).path.exists():
        return 1
    saved = sum(p.numel() * p.element_size() for p in weights) / BYTES_PER_SECOND * SAVED
    return int((SECONDS + SECONDS_PER_LAYER * len(model.model.layers)) / saved) + 1


def choose_decoder(
    model: Llama, fast: bool | None, new_tokens: int, batch: int, padded: bool, longest: int | None = None
) -> Decoder:
    """Choose the model itself or its FastLlama: as `fast` says, or (None) by whether compiling is expected to pay.

    The choice is logged, except where `fast` is None and not even a text of `longest` tokens, the longest that the
    model can write, would pay.
    """
    if fast is False:
        return model
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype == torch.float64 or not has_cpp_compiler():
        reason = f"{weight.dtype} on {weight.device}" if has_cpp_compiler() else "there is no g++ or clang++"
        log.log(logging.WARNING if fast else logging.INFO, "decoding without compiling: %s", reason)
        return model
    needed = break_even_tokens(model, batch > 1, padded)
    if fast is None and new_tokens < needed:
        if longest is None or needed < longest:
            message = "decoding without compiling, which takes a while once and would pay from %s new tokens on"
            log.info(message, f"{needed:,}")
        return model
    fast_model = FastLlama(model)
    try:
        fast_model.compiled(batch > 1, padded)
    except (CompileError, OSError) as error:
        log.warning("decoding without compiling: %s", error)
        return model
    return fast_model
