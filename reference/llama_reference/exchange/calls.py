"""An implementation whose functions are messages: every call becomes a Call, which somebody else answers.

A cache is the list of the calls that were made with it. So a call over a cache can be told to a program that keeps
nothing from one request to the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config, State

OUTPUTS = {"rotary": ("q", "k"), "new_cache": (), "crop": (), "reorder": ()}  # of the others one, without a name
ONE = ("",)


@dataclass(frozen=True, eq=False)
class Model:
    """What `build` was given."""

    config: Config
    state: State
    dtype: torch.dtype
    key: str


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one function; `cache` is the one that it goes on with, None without one."""

    function: str
    model: Model | None
    cache: Cache | None
    arguments: dict[str, Any]
    key: str

    @property
    def outputs(self) -> tuple[str, ...]:
        return OUTPUTS.get(self.function, ONE)


class Cache:
    """The calls that were made with a cache, from new_cache on."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @property
    def key(self) -> str:
        return self.calls[-1].key if self.calls else ""


class ByCalls:
    """An implementation; what its functions answer is up to `answer`."""

    def answer(self, call: Call) -> tuple[Tensor, ...]:
        """One tensor for each of the call's outputs. Raises NotImplementedError where it has no answer."""
        raise NotImplementedError

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Model:
        said = json.dumps(config, sort_keys=True), str(dtype), *(f"{name} {_key(x)}" for name, x in state.items())
        return Model(config, state, dtype, _digest("\n".join(said).encode()))

    def rms_norm(self, handle: Model, where: str, x: Tensor) -> Tensor:
        return self._call("rms_norm", handle, where=where, x=x)[0]

    def rotary(self, handle: Model, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self._call("rotary", handle, q=q, k=k, positions=positions)
        return q, k

    def attention(
        self,
        handle: Model,
        layer: int,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
    ) -> Tensor:
        return self._call("attention", handle, cache, layer=layer, x=x, positions=positions, mask=mask)[0]

    def swiglu(self, handle: Model, layer: int, x: Tensor) -> Tensor:
        return self._call("swiglu", handle, layer=layer, x=x)[0]

    def block(
        self,
        handle: Model,
        layer: int,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
    ) -> Tensor:
        return self._call("block", handle, cache, layer=layer, x=x, positions=positions, mask=mask)[0]

    def llama(
        self, handle: Model, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        return self._call("llama", handle, cache, tokens=tokens, positions=positions, mask=mask)[0]

    def new_cache(self, handle: Model, batch: int, length: int) -> Cache:
        cache = Cache()
        self._call("new_cache", handle, cache, batch=batch, length=length)
        return cache

    def crop(self, handle: Model, cache: Cache, length: int) -> Cache:
        self._call("crop", handle, cache, length=length)
        return cache

    def reorder(self, handle: Model, cache: Cache, rows: Tensor) -> Cache:
        self._call("reorder", handle, cache, rows=rows)
        return cache

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._call("loss", None, logits=logits, labels=labels)[0]

    def sampling(self, logits: Tensor, tokens: Tensor, **knobs: Any) -> Tensor:
        return self._call("sampling", None, logits=logits, tokens=tokens, **knobs)[0]

    def generate(
        self,
        handle: Model,
        tokens: Tensor,
        mask: Tensor | None,
        new: int,
        use_cache: bool,
        stop: Sequence[int] = (),
    ) -> Tensor:
        asked: dict[str, Any] = {"tokens": tokens, "mask": mask, "new": new, "use_cache": use_cache, "stop": list(stop)}
        return self._call("generate", handle, **asked)[0]

    def _call(
        self, function: str, model: Model | None, cache: Cache | None = None, **arguments: Any
    ) -> tuple[Tensor, ...]:
        said = [function, model.key if model else "", cache.key if cache else ""]
        said += [f"{name} {_key(value)}" for name, value in arguments.items()]
        call = Call(function, model, cache, arguments, _digest("\n".join(said).encode()))
        answers = self.answer(call)
        if cache is not None:
            cache.calls.append(call)
        return answers


def perform(implementation: Any, call: Call, handle: Any, cache: Any) -> Any:
    """The call, made to another implementation, whose handle and cache these are."""
    function, arguments = getattr(implementation, call.function), dict(call.arguments)
    if call.function == "sampling":
        return function(arguments.pop("logits"), arguments.pop("tokens"), **arguments)
    if call.function == "generate" and not arguments["stop"]:
        del arguments["stop"]
    if call.function in ("crop", "reorder"):
        return function(handle, cache, *arguments.values())
    given = [*arguments.values()] if call.model is None else [handle, *arguments.values()]
    return function(*given) if call.cache is None or call.function == "new_cache" else function(*given, cache)


def _key(value: Any) -> str:
    """Of a tensor its dtype, shape and bytes."""
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.dtype} {tuple(value.shape)} {digest(value)}"


def digest(tensor: Tensor) -> str:
    """A short name for what a tensor holds."""
    flat = tensor.detach().contiguous().flatten()
    return _digest(str((flat.dtype, tuple(tensor.shape))).encode() + flat.view(torch.uint8).numpy().tobytes())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
