"""Rotary and attention at far positions: where a position, an angle or a scaled frequency goes wrong unseen nearby.

Scaling of rotary frequencies hardly moves the first positions, 16-bit positions are exact up to 256 (bfloat16) or 2,048
(float16), and activations in bfloat16 bury what is left. So each layer is asked at the positions where these give way,
and the first layer in float32 as well, whatever the checkpoint's dtype is. Positions are arguments: this costs one
short sequence a layer, however far it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from llama_reference.implementation import Config, Handle, Implementation, State
from llama_reference.questions.activations import ATTENTION, Recording

FAR = "far positions"
EDGES = (1, 256, 2048, 4096, 8192)  # asked with their neighbours, as the original context is
QUERIES, KEYS = "queries", "keys"
Ask = Callable[[Implementation, Handle], Tensor]  # (implementation, its handle) -> an answer, rows of real tokens only
Asked = tuple[int | None, str, str, str, Ask]  # layer, NAME, module, how, the question


def far_positions(config: Config) -> dict[str, Tensor]:
    """Positions (1, T) by label, as far as the model goes.

    longrope has two sets of frequencies, and takes the long one as soon as one position is beyond the original context:
    so it is asked within that context, too.
    """
    rope, length = config["rope_parameters"], config["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings") or length
    edges = {edge + i for edge in (*EDGES, original) for i in (-1, 0, 1)}

    def up_to(last: int) -> Tensor:
        return torch.tensor([sorted({edge for edge in edges if edge < last} | {last})])

    found = {FAR: up_to(length - 1)}
    if rope["rope_type"] == "longrope" and original < length:
        found[f"{FAR} of the original context"] = up_to(original - 1)
    return found


def questions(config: Config, recording: Recording, layer: int, dtype: torch.dtype) -> Iterator[Asked]:
    """The questions of one layer, in the dtype."""
    where = f"model.layers.{layer}.{ATTENTION}"
    for label, positions in far_positions(config).items():
        q, k = (
            _stretched(recording, recording.heads(layer, f"{i}_proj").transpose(1, 2), positions).to(dtype)
            for i in "qk"
        )
        for i, how in enumerate((QUERIES, KEYS)):
            yield layer, "rotary", where, f"{how}, {label}", partial(_rotary, q, k, positions, i)
        x = _stretched(recording, recording.into[where], positions).to(dtype)
        yield layer, "attention", where, label, partial(_attention, layer, x, positions)


def in_float32(config: Config, state: State, recording: Recording) -> Iterator[Asked]:
    """Those of the first layer, in float32, of a model that is built of this layer alone."""
    shape = {"num_hidden_layers": 1, "vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    small = {
        key: weight[:8] if weight.shape[0] == config["vocab_size"] else weight
        for key, weight in state.items()
        if not key.startswith("model.layers.") or key.startswith("model.layers.0.")
    }

    def built(ask: Ask, implementation: Implementation, _: Handle) -> Tensor:
        return ask(implementation, implementation.build(config | shape, small, torch.float32))

    for layer, name, where, how, ask in questions(config, recording, 0, torch.float32):
        yield layer, name, where, f"{how}, float32", partial(built, ask)


def _stretched(recording: Recording, x: Tensor, positions: Tensor) -> Tensor:
    """The activations x (B, T, ...) of real tokens, one after the other, as one row of as many as there are positions:
    (1, positions, ...).
    """
    real = x[recording.inputs.real]
    return real[torch.arange(positions.shape[1]) % len(real)][None]


# Arguments are copied for every call: whoever writes into them must not spoil the next one's question.


def _rotary(q: Tensor, k: Tensor, positions: Tensor, i: int, implementation: Implementation, handle: Handle) -> Tensor:
    heads = (x.transpose(1, 2).clone() for x in (q, k))
    return implementation.rotary(handle, *heads, positions.clone())[i].transpose(1, 2)[0]


def _attention(layer: int, x: Tensor, positions: Tensor, implementation: Implementation, handle: Handle) -> Tensor:
    return implementation.attention(handle, layer, x.clone(), positions.clone(), None)[0]
