"""What is asked of an implementation: to be built from a Hugging Face configuration and state dict, and then to let
each of its own parts answer.

The oracle, the formula and every adapter under tests/adapters are such implementations, so one question serves all.
The letters are those of the README: B batch, T positions of this call, S positions with the cached ones, D hidden_size,
N query heads, G key/value heads, H head_dim, V vocab_size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
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


class Implementation(Protocol):
    """A module or object with these functions. `handle` and `cache` are its own and opaque to the suite.

    positions are (B, T), one row for each sequence; mask is None or (B, S), 1 for a real token and 0 for padding. A
    call with a cache appends its T positions to those that the cache holds.
    """

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Any:
        """A model in eval mode, of the dtype, from the fields of a config.json and tensors under their HF names."""

    def parameters(self, handle: Any) -> State:
        """The tensors that autograd gives gradients to, under their HF names; a tied head is not among them."""

    def rms_norm(self, handle: Any, where: str, x: Tensor) -> Tensor:
        """The norm whose weight is stored as `where`.weight, applied to x (..., D)."""

    def rotary(self, handle: Any, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Q (B, N, T, H) and k (B, G, T, H), turned."""

    def attention(
        self, handle: Any, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None
    ) -> Tensor:
        """Self-attention of one layer, without its norm and residual: (B, T, D) -> (B, T, D)."""

    def swiglu(self, handle: Any, layer: int, x: Tensor) -> Tensor:
        """The feed-forward of one layer, without its norm and residual: (B, T, D) -> (B, T, D)."""

    def block(
        self, handle: Any, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None
    ) -> Tensor:
        """One whole layer: (B, T, D) -> (B, T, D)."""

    def llama(self, handle: Any, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T)."""

    def new_cache(self, handle: Any, batch: int, length: int) -> Any:
        """An empty cache with room for `length` positions of `batch` sequences."""

    def crop(self, handle: Any, cache: Any, length: int) -> Any:
        """The cache with all but the first `length` positions of every row forgotten, 0 for an empty one. It is the
        one to go on with; whether it is the same object is the implementation's affair.
        """

    def reorder(self, handle: Any, cache: Any, rows: Tensor) -> Any:
        """The cache to go on with, row i of which is what row rows[i] was: there may be fewer or more rows (B,)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean next-token cross entropy of logits (B, T, V), labels (B, T) being the tokens, -100 where ignored."""

    def sampling(
        self,
        logits: Tensor,
        tokens: Tensor,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repetition_penalty: float | None,
    ) -> Tensor:
        """Probabilities (B, V), in float32, of the token after tokens (B, T), given logits (B, V) of any dtype.

        None switches a knob off; temperature 0 is greedy, where the likeliest token has probability 1.
        """

    def generate(
        self, handle: Any, tokens: Tensor, mask: Tensor | None, new: int, use_cache: bool, stop: Sequence[int] = ()
    ) -> Tensor:
        """(B, T + new): the prompt and the `new` tokens that greedy decoding adds. The configuration's stop ids stop
        nothing.

        With `stop`, a row is done with the first of these ids that it adds (those of its prompt do not count), and the
        result ends with the step at which the last row is done. What stands behind a row's stop id is not looked at.
        """


def offers(implementation: Any, name: str, *options: str) -> bool:
    """Whether it has this function, with these options. A stub that raises NotImplementedError shows when called."""
    try:
        parameters = inspect.signature(getattr(implementation, name)).parameters
    except (AttributeError, NotImplementedError):
        return False
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or all(option in parameters for option in options)
