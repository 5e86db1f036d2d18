"""Some layers of a checkpoint that is too large to be in memory: `llama-reference verify DIR ADAPTER.py --layers 0,15`.

One layer at a time is read, as a model of that layer alone: its embedding has a row for every position of the text, the
hidden state that transformers hands to the layer; its head has the rows of the text's own tokens. So transformers, the
formula and the implementation hold one layer each, and every question of `verify` is asked about it. The layers between
are run by transformers only. What is not seen is what goes wrong between layers, or by their number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from llama_reference.adapter_loader import load
from llama_reference.checkpoints import Stored, opened
from llama_reference.command_line import UsageError
from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, NORM, layer_of
from llama_reference.implementation import Config, State
from llama_reference.judge import localization, rounding
from llama_reference.questions import layer_checks
from llama_reference.questions.activations import Inputs, record
from llama_reference.report.verification import Verification
from llama_reference.standard import oracle
from llama_reference.verify import NAMED, names_of, text_of

FIRST = "model.layers.0"


@dataclass(frozen=True)
class _Rows:
    """What every layer's model shares: inputs whose tokens are positions of the text, the rows of the head that belong
    to the text's own tokens, and the norm.
    """

    inputs: Inputs
    head: Tensor
    norm: Tensor


def verify_layers(
    directory: Path, implementation: Path, dtype: str | None, tokens: int, layers: Sequence[int]
) -> Verification:
    """Compare the layers one by one. Raises UsageError."""
    adapter = load(implementation)
    stored = opened(directory)
    if stored.format != "transformers":
        raise UsageError(f"{directory}: --layers needs a directory of transformers, found {stored.format}'s format")
    if wrong := [layer for layer in layers if not 0 <= layer < stored.fields["num_hidden_layers"]]:
        raise UsageError(f"--layers has {wrong[0]}, expected 0 to {stored.fields['num_hidden_layers'] - 1}")
    lacking = {EMBEDDING, NORM} | (set() if stored.fields["tie_word_embeddings"] else {HEAD})
    if lacking := lacking - stored.weights.keys():
        raise UsageError(f"{directory}: missing keys: {', '.join(sorted(lacking))}")
    chosen = NAMED[dtype or stored.weights[NORM].kind]
    text, source = text_of(directory, stored.fields["vocab_size"], tokens)
    findings: list[localization.Finding] = []
    names: dict[str, str] = {}
    roundings: list[rounding.Rounding] = []
    for layer, config, state, inputs in _streamed(stored, text, chosen, layers):
        every = [layer_checks.prepare(config, state, chosen, inputs)]
        if chosen != torch.float32 and layer == layers[0]:
            every.append(layer_checks.prepare(config, state, torch.float32, inputs))
        found = [localization.find(adapter, checks) for checks in every]
        names = names_of(adapter, every, [finding for one in found for finding in one]) | names
        roundings = roundings or rounding.certified(every[0], found[0])
        findings += [_renumbered(finding, layer) for one in found for finding in one]
    B, T = text.tokens.shape
    about = {
        "checkpoint": f"{directory} (layers {', '.join(map(str, layers))} of {stored.fields['num_hidden_layers']})",
        "implementation": str(implementation),
        "dtype": str(chosen).removeprefix("torch."),
        "tokens": f"{B} rows of {T}, {source}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "not seen": "what goes wrong between layers or by their number: each is a model of its own",
    }
    return Verification(about, list(layers), findings, [], names, roundings)


def _streamed(
    stored: Stored, text: Inputs, dtype: torch.dtype, layers: Sequence[int]
) -> Iterator[tuple[int, Config, State, Inputs]]:
    """Of each layer asked for: its number, and the model of that layer alone."""
    used, places = text.tokens.unique(return_inverse=True)
    embedding = stored.weights[EMBEDDING].read().values[used]
    head = embedding if stored.fields["tie_word_embeddings"] else stored.weights[HEAD].read().values[used]
    hidden = embedding[places].to(dtype)
    B, T = text.tokens.shape
    rows = _Rows(
        replace(text, tokens=torch.arange(B * T).view(B, T)),
        head[places].flatten(0, 1).to(dtype),
        stored.weights[NORM].read().values.to(dtype),
    )
    for layer in tqdm(range(max(layers) + 1), "layers", disable=not sys.stderr.isatty(), leave=False):
        config, state = _alone(stored, layer, hidden, rows)
        if layer in layers:
            yield layer, config, state, rows.inputs
        hidden = record(oracle.build(config, state, dtype), rows.inputs).out_of[FIRST]


def _alone(stored: Stored, layer: int, hidden: Tensor, rows: _Rows) -> tuple[Config, State]:
    """A model of one layer, whose embedding is what the layer is handed."""
    state = {
        name.replace(f"model.layers.{layer}", FIRST): weight.read().values.to(hidden.dtype)
        for name, weight in stored.weights.items()
        if layer_of(name) == layer
    }
    state |= {EMBEDDING: hidden.flatten(0, 1).clone(), HEAD: rows.head, NORM: rows.norm}
    changed: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": rows.inputs.tokens.numel()}
    changed |= {"tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return stored.fields | changed, state


def _renumbered(finding: localization.Finding, layer: int) -> localization.Finding:
    if finding.layer is None:
        return finding
    return replace(finding, layer=layer, where=finding.where.replace(FIRST, f"model.layers.{layer}", 1))
