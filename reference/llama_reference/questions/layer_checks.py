"""What is asked of every component of a model, with the answers of transformers and of the formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from llama_reference.implementation import Config, Handle, Implementation, State
from llama_reference.questions import chunks, far
from llama_reference.questions.activations import ATTENTION, MLP, NORM1, NORM2, Inputs, Recording, record
from llama_reference.questions.far import KEYS, QUERIES, Ask, Asked
from llama_reference.standard import formula, oracle

ONE_PASS, IN_CHUNKS = "one pass", "in chunks"
STEP_BY_STEP = "a prompt, then one by one, without padding"  # where no mask is needed, so that the cache alone can err
SILENCED = "with silent layers"  # that add nothing to the stream: embedding, last norm and head alone
STEPS = 4


@dataclass(frozen=True)
class Question:
    """Something to ask a component, with transformers' answer and the formula's."""

    layer: int | None
    name: str
    where: str
    how: str
    ask: Ask
    theirs: Tensor
    exact: Tensor


@dataclass(frozen=True)
class LayerChecks:
    """All questions about one model. Its references are answered once, however many implementations sit it."""

    config: Config
    state: State
    dtype: torch.dtype
    recording: Recording
    questions: list[Question]


@torch.no_grad()
def prepare(config: Config, state: State, dtype: torch.dtype, inputs: Inputs, handle: Handle = None) -> LayerChecks:
    """The questions about the model of this configuration and these weights, on these tokens.

    handle: transformers' model, where there is one already; it must hold the same weights in the same dtype.
    """
    theirs = oracle.build(config, state, dtype) if handle is None else handle
    exact = formula.build(config, state, dtype)
    recording = record(theirs, inputs)
    with np.errstate(over="ignore", invalid="ignore"):  # a reference that overflows voids its question, no more
        questions = [
            Question(layer, name, where, how, ask, ask(oracle, theirs), ask(formula, exact))
            for layer, name, where, how, ask in _questions(config, state, dtype, recording)
        ]
    return LayerChecks(config, state, dtype, recording, questions)


def first_layer(config: Config, state: State, inputs: Inputs) -> tuple[Config, State, Inputs]:
    """A model of the first layer and of the tokens that are used: small enough to be asked in another dtype, too."""
    used, tokens = inputs.tokens.unique(return_inverse=True)
    vocabulary = {"vocab_size": len(used), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    part = {key: w for key, w in state.items() if ".layers." not in key or key.startswith("model.layers.0.")}
    for key in part.keys() & {"model.embed_tokens.weight", "lm_head.weight"}:
        part[key] = part[key][used]
    return config | {"num_hidden_layers": 1} | vocabulary, part, replace(inputs, tokens=tokens)


def _questions(config: Config, state: State, dtype: torch.dtype, recording: Recording) -> Iterator[Asked]:
    """In the order of execution."""
    inputs = recording.inputs
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        part = {name: f"{at}.{name}" for name in (NORM1, ATTENTION, NORM2, MLP)}
        yield layer, "rms_norm", part[NORM1], ONE_PASS, partial(_norm, recording, part[NORM1])
        for i, how in enumerate((QUERIES, KEYS)):
            yield layer, "rotary", part[ATTENTION], how, partial(_rotary, recording, layer, i)
        for name, where in (("attention", part[ATTENTION]), ("block", at)):
            x = recording.into[where]
            yield layer, name, where, ONE_PASS, partial(_whole, inputs, name, (layer,), x)
            yield layer, name, where, IN_CHUNKS, partial(_in_chunks, inputs, name, (layer,), x)
        yield from far.questions(config, recording, layer)
        x = recording.into[part[ATTENTION]]
        yield layer, "kv_cache", part[ATTENTION], STEP_BY_STEP, partial(_stepwise, inputs, "attention", (layer,), x)
        yield layer, "rms_norm", part[NORM2], ONE_PASS, partial(_norm, recording, part[NORM2])
        yield layer, "swiglu", part[MLP], ONE_PASS, partial(_swiglu, recording, layer, part[MLP])
    yield None, "rms_norm", "model.norm", ONE_PASS, partial(_norm, recording, "model.norm")
    yield None, "llama", "logits", ONE_PASS, partial(_whole, inputs, "llama", (), inputs.tokens)
    yield None, "llama", "logits", IN_CHUNKS, partial(_in_chunks, inputs, "llama", (), inputs.tokens)
    yield None, "llama", "logits", SILENCED, partial(_silenced, inputs, config, state, dtype)
    yield None, "kv_cache", "logits", STEP_BY_STEP, partial(_stepwise, inputs, "llama", (), inputs.tokens)


# Arguments are copied for every call: whoever writes into them must not spoil the next one's question.


def _norm(recording: Recording, where: str, implementation: Implementation, handle: Handle) -> Tensor:
    return implementation.rms_norm(handle, where, recording.into[where].clone())[recording.inputs.real]


def _rotary(recording: Recording, layer: int, i: int, implementation: Implementation, handle: Handle) -> Tensor:
    q = recording.heads(layer, "q_proj").clone()
    k = recording.heads(layer, "k_proj").clone()
    turned = implementation.rotary(handle, q, k, recording.inputs.positions.clone())[i]
    return turned.transpose(1, 2)[recording.inputs.real]


def _swiglu(recording: Recording, layer: int, where: str, implementation: Implementation, handle: Handle) -> Tensor:
    return implementation.swiglu(handle, layer, recording.into[where].clone())[recording.inputs.real]


def _whole(
    inputs: Inputs, name: str, layer: tuple[int, ...], x: Tensor, implementation: Implementation, handle: Handle
) -> Tensor:
    mask = None if inputs.mask is None else inputs.mask.clone()
    return getattr(implementation, name)(handle, *layer, x.clone(), inputs.positions.clone(), mask)[inputs.real]


def _in_chunks(
    inputs: Inputs, name: str, layer: tuple[int, ...], x: Tensor, implementation: Implementation, handle: Handle
) -> Tensor:
    """A prompt, one token, several, several, over a cache: mistakes with queries behind cached keys show here only."""
    T = inputs.tokens.shape[1]
    edges = sorted({0, T // 3, T // 3 + 1, 2 * T // 3, T})
    return _over_a_cache(inputs, edges, name, layer, x, implementation, handle)


def _stepwise(
    inputs: Inputs, name: str, layer: tuple[int, ...], x: Tensor, implementation: Implementation, handle: Handle
) -> Tensor:
    """A prompt, then one token at a time, unpadded: no mask is needed, so a failure here is the cache's."""
    T = inputs.tokens.shape[1]
    edges = [0, *range(max(T - STEPS, 1), T + 1)]
    unpadded = Inputs(inputs.tokens, inputs.positions)
    return _over_a_cache(unpadded, edges, name, layer, x, implementation, handle)


def _over_a_cache(
    inputs: Inputs,
    edges: list[int],
    name: str,
    layer: tuple[int, ...],
    x: Tensor,
    implementation: Implementation,
    handle: Handle,
) -> Tensor:
    cache = implementation.new_cache(handle, *inputs.tokens.shape)

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        seen = None if mask is None else mask.clone()
        ask = getattr(implementation, name)
        return ask(handle, *layer, x.clone(), positions.clone(), seen, cache)

    return chunks.in_chunks(call, edges, x, inputs.positions, inputs.mask)[inputs.real]


def _silenced(
    inputs: Inputs, config: Config, state: State, dtype: torch.dtype, implementation: Implementation, _: Handle
) -> Tensor:
    """Logits of a model whose layers add nothing, be they right or wrong."""
    silent = {key: torch.zeros_like(w) if "o_proj" in key or "down_proj" in key else w for key, w in state.items()}
    handle = implementation.build(config, silent, dtype)
    return implementation.llama(handle, inputs.tokens.clone(), inputs.positions.clone(), None)[inputs.real]
