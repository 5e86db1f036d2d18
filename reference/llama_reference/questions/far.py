"""Rotary and attention at far positions: where a position, an angle or a scaled frequency goes wrong unseen nearby.

Scaling of rotary frequencies hardly moves the first positions, 16-bit positions are exact up to 256 (bfloat16) or 2,048
(float16). So each layer is asked at the positions where these give way. Positions are arguments: this costs one short
sequence a layer, however far it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from llama_reference.implementation import Config, Handle, Implementation
from llama_reference.questions.activations import ATTENTION, Recording

FAR, LAST = "far positions", "last positions"
RUN = 8  # consecutive positions at the end of the model: what an engine that takes an offset only can answer
EDGES = (1, 256, 2048, 4096, 8192)  # asked with their neighbours, as the original context is
QUERIES, KEYS = "queries", "keys"
Ask = Callable[[Implementation, Handle], Tensor]  # (implementation, its handle) -> an answer, rows of real tokens only
Asked = tuple[int | None, str, str, str, Ask]  # layer, NAME, module, how, the question


def far_positions(config: Config) -> dict[str, Tensor]:
    """Positions (1, T) by label, as far as the model goes.

    longrope has two sets of frequencies, and takes the long one as soon as one position is beyond the original context:
    so it is asked within that context, too.
    """
    rope = config["rope_parameters"]
    length = config["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings") or length
    edges = {edge + i for edge in (*EDGES, original) for i in (-1, 0, 1)}

    def up_to(last: int) -> Tensor:
        return torch.tensor([sorted({edge for edge in edges if edge < last} | {last})])

    found = {FAR: up_to(length - 1), LAST: torch.arange(max(length - RUN, 0), length)[None]}
    if rope["rope_type"] == "longrope" and original < length:
        found[f"{FAR} of the original context"] = up_to(original - 1)
    return found


def questions(config: Config, recording: Recording, layer: int) -> Iterator[Asked]:
    """The questions of one layer."""
    where = f"model.layers.{layer}.{ATTENTION}"
    for label, positions in far_positions(config).items():
        q = _stretched(recording, recording.heads(layer, "q_proj").transpose(1, 2), positions)
        k = _stretched(recording, recording.heads(layer, "k_proj").transpose(1, 2), positions)
        for i, how in enumerate((QUERIES, KEYS)):
            yield layer, "rotary", where, f"{how}, {label}", partial(_rotary, q, k, positions, i)
        x = _stretched(recording, recording.into[where], positions)
        yield layer, "attention", where, label, partial(_attention, layer, x, positions)


def _stretched(recording: Recording, x: Tensor, positions: Tensor) -> Tensor:
    """The activations x (B, T, ...) of real tokens, one after the other, as one row of as many as there are positions:
    (1, positions, ...).
    """
    real = x[recording.inputs.real]
    return real[torch.arange(positions.shape[1]) % len(real)][None]


# Arguments are copied for every call: whoever writes into them must not spoil the next one's question.


def _rotary(q: Tensor, k: Tensor, positions: Tensor, i: int, implementation: Implementation, handle: Handle) -> Tensor:
    turned = implementation.rotary(handle, q.transpose(1, 2).clone(), k.transpose(1, 2).clone(), positions.clone())
    return turned[i].transpose(1, 2)[0]


def _attention(layer: int, x: Tensor, positions: Tensor, implementation: Implementation, handle: Handle) -> Tensor:
    return implementation.attention(handle, layer, x.clone(), positions.clone(), None)[0]
