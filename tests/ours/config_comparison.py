"""Two readings of one config.json, ours and transformers', side by side."""

import copy
from dataclasses import fields

import transformers

from llama_scratch import LlamaConfig


def as_transformers(raw: dict) -> transformers.LlamaConfig:
    """What transformers makes of the file, the mutation that building a model does to it included."""
    config = transformers.LlamaConfig(**copy.deepcopy(raw))
    config.standardize_rope_params()
    return config


def differences(ours: LlamaConfig, theirs: transformers.LlamaConfig) -> dict:
    """Field -> (ours, theirs), where they differ."""
    found = {}
    for field in fields(LlamaConfig):
        mine = getattr(ours, field.name)
        other = getattr(theirs, field.name)
        if field.name == "dtype":
            other = None if other is None else str(other).removeprefix("torch.")
        if field.name == "rope_parameters":
            other = {name: value for name, value in other.items() if name != "type"}
        if field.name == "attention_dropout":
            other = other or 0.0
        if mine != other:
            found[field.name] = (mine, other)
    return found
