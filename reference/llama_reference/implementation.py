"""What is asked of an implementation: to be built from a Hugging Face configuration and state dict, and then to let
each of its own parts answer.

The oracle, the formula and every adapter under tests/adapters are such implementations, so one question serves all.
The letters are those of the README: B batch, T positions of this call, S positions with the cached ones, D hidden_size,
N query heads, G key/value heads, H head_dim, V vocab_size.

positions are (B, T), one row for each sequence; mask is None or (B, S), 1 for a real token and 0 for padding. A call
with a cache appends its T positions to those that the cache holds.

Each component has a protocol, so that an adapter of one component has a type too. Modules are members of protocols.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

COMPONENTS = (
    "rms_norm",
    "rotary",
    "attention",
    "swiglu",
    "block",
    "kv_cache",
    "llama",
    "loss",
    "sampling",
    "generate",
)

Config = dict[str, Any]
State = dict[str, Tensor]
Handle = Any  # a model as the implementation built it
Cache = Any  # its cache: the suite hands both back and looks into neither


class Builds(Hashable, Protocol):
    """What every question about a model needs."""

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Handle:
        """A model in eval mode, of the dtype, from the fields of a config.json and tensors under their HF names."""


class Parameters(Builds, Protocol):
    """What gradients need."""

    def parameters(self, handle: Handle) -> State:
        """The tensors that autograd gives gradients to, under their HF names; a tied head is not among them."""


class RmsNorm(Builds, Protocol):
    """An implementation that offers its norms."""

    def rms_norm(self, handle: Handle, where: str, x: Tensor) -> Tensor:
        """The norm whose weight is stored as `where`.weight, applied to x (..., D)."""


class Rotary(Builds, Protocol):
    """An implementation that offers its rotation of queries and keys."""

    def rotary(self, handle: Handle, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotated queries (B, N, T, H) and keys (B, G, T, H)."""


class Attention(Builds, Protocol):
    """An implementation that offers the self-attention of a layer."""

    def attention(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache = None
    ) -> Tensor:
        """Self-attention of one layer, without its norm and residual: (B, T, D) -> (B, T, D)."""


class SwiGLU(Builds, Protocol):
    """An implementation that offers the feed-forward of a layer."""

    def swiglu(self, handle: Handle, layer: int, x: Tensor) -> Tensor:
        """The feed-forward of one layer, without its norm and residual: (B, T, D) -> (B, T, D)."""


class Block(Builds, Protocol):
    """An implementation that offers whole layers."""

    def block(
        self, handle: Handle, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache = None
    ) -> Tensor:
        """One whole layer: (B, T, D) -> (B, T, D)."""


class Llama(Builds, Protocol):
    """An implementation that offers the whole model."""

    def llama(
        self, handle: Handle, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache = None
    ) -> Tensor:
        """Logits (B, T, V) of tokens (B, T)."""


class NewCache(Builds, Protocol):
    """An implementation that offers caches."""

    def new_cache(self, handle: Handle, batch: int, length: int) -> Cache:
        """An empty cache with room for `length` positions of `batch` sequences."""


class CachedAttention(Attention, NewCache, Protocol):
    """Attention, in one call or in chunks over a cache."""


class CachedLlama(Llama, NewCache, Protocol):
    """The whole model, in one call or in chunks over a cache."""


class KVCache(CachedAttention, CachedLlama, Protocol):
    """An implementation whose caches can be cropped and reordered."""

    def crop(self, handle: Handle, cache: Cache, length: int) -> Cache:
        """The cache with all but the first `length` positions of every row forgotten, 0 for an empty one. It is the
        one to go on with; whether it is the same object is the implementation's affair.
        """

    def reorder(self, handle: Handle, cache: Cache, rows: Tensor) -> Cache:
        """The cache to go on with, row i of which is what row rows[i] was: there may be fewer or more rows (B,)."""


class Loss(Protocol):
    """An implementation that offers its loss; it builds nothing."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean next-token cross entropy of logits (B, T, V), labels (B, T) being the tokens, -100 where ignored."""


class Sampling(Protocol):
    """An implementation that offers the probabilities it samples from; it builds nothing."""

    def sampling(
        self,
        logits: Tensor,
        tokens: Tensor,
        *,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repetition_penalty: float | None,
    ) -> Tensor:
        """Probabilities (B, V), in float32, of the token after tokens (B, T), given logits (B, V) of any dtype.

        None switches a filter off; temperature 0 is greedy, where the likeliest token has probability 1.
        """


class Generate(Builds, Protocol):
    """An implementation that offers greedy decoding."""

    def generate(
        self, handle: Handle, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
    ) -> Tensor:
        """(B, T + new): the prompt and the `new` tokens that greedy decoding adds. The configuration's stop ids stop
        nothing.

        With `stop`, a row is done with the first of these ids that it adds (those of its prompt do not count), and the
        result ends with the step at which the last row is done. Whatever follows a row's stop id is ignored.
        """


class Implementation(Parameters, RmsNorm, Rotary, SwiGLU, Block, KVCache, Loss, Sampling, Generate, Protocol):
    """Every function. An adapter may lack some: calling one that it lacks is answered with "not offered"."""


FUNCTIONS = tuple(name for name in dir(Implementation) if not name.startswith("_"))


def offers(implementation: object, name: str, *options: str) -> bool:
    """True if the function is there and takes these options. A stub that raises NotImplementedError counts as there."""
    try:
        parameters = inspect.signature(getattr(implementation, name)).parameters
    except (AttributeError, NotImplementedError):
        return False
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or all(option in parameters for option in options)
