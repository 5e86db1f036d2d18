"""A directory of Meta: params.json, and consolidated.*.pth with the parts of a model that is split over devices."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llama_reference.checkpoints.names import of_meta
from llama_reference.checkpoints.stored import UNCOMPARED, Numbers, Stored, Weight, kind_of
from llama_reference.command_line import UsageError
from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, NORM, part_of
from llama_reference.conventions.weights import half_split
from llama_reference.implementation import Config

BY_COLUMNS = ("o_proj", "down_proj")  # their parts stand side by side, those of other matrices one below the other


def read(path: Path) -> Stored:
    files = sorted(path.glob("consolidated.*.pth"))
    if not files:
        raise UsageError(f"{path}: holds no consolidated.*.pth")
    states = [torch.load(file, weights_only=True, mmap=True, map_location="cpu") for file in files]
    fields = _fields(json.loads((path / "params.json").read_text()))
    heads = {"q_proj": fields["num_attention_heads"], "k_proj": fields["num_key_value_heads"]}
    weights = {}
    for theirs in states[0]:
        if (name := of_meta(theirs)) is not None:
            parts = [state[theirs] for state in states]
            axis = _axis(name, parts[0], fields["hidden_size"])
            shape = list(parts[0].shape)
            if axis is not None:
                shape[axis] *= len(parts)
            joined = partial(_joined, parts, axis, heads.get(part_of(name)))
            weights[name] = Weight(tuple(shape), kind_of(parts[0].dtype), joined)
    fields["vocab_size"] = weights[EMBEDDING].shape[0]
    if (gate := weights.get("model.layers.0.mlp.gate_proj.weight")) is not None:
        fields["intermediate_size"] = gate.shape[0]
    told = (
        () if "rope_parameters" in fields else (f"{UNCOMPARED}: params.json does not have the factor of their scaling",)
    )
    return Stored(path, "Meta", fields, weights, pairs=True, remarks=told)


def _axis(name: str, part: Tensor, hidden_size: int) -> int | None:
    """Along which the parts are joined; None where each holds the whole."""
    if part.dim() == 1 or name == NORM:
        return None
    if name == EMBEDDING:
        return 0 if part.shape[1] == hidden_size else 1
    return 1 if part_of(name) in BY_COLUMNS and name != HEAD else 0


def _joined(parts: list[Tensor], axis: int | None, heads: int | None) -> Numbers:
    whole = (parts[0] if axis is None else torch.cat(parts, axis)).float()
    return Numbers(whole if heads is None else half_split(whole, heads, 0))


def _fields(params: Config) -> Config:
    rope: Config = {"rope_type": "default", "rope_theta": params.get("rope_theta", 10000.0)}
    fields: Config = {
        "hidden_size": params["dim"],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params.get("n_kv_heads") or params["n_heads"],
        "head_dim": params["dim"] // params["n_heads"],
        "rms_norm_eps": params["norm_eps"],
        "rope_parameters": rope,
        "hidden_act": "silu",
    }
    if params.get("use_scaled_rope"):  # without its factor, which is the program's: 8 in 3.1, 32 in 3.2
        del fields["rope_parameters"]
    return fields
