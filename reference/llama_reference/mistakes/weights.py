"""Mistakes in how weights reach the model: each is right code with the wrong numbers, in whichever component reads them.

They are the mistakes of conversion, made while a model is built; no component's own, and not counted among a
component's. A component whose answers fit none of its own mistakes is held against these.
"""

from __future__ import annotations

from typing import Any

import torch

from llama_reference.implementation import Config, State
from llama_reference.mistakes.conversions import CONVERSIONS, Conversion, Convert, Original
from llama_reference.mistakes.mistake import Steps, mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _built(conversion: Conversion, way: Convert) -> Steps:
    """build of what arrives under each name."""

    def build(self: StepwiseLlama, config: Config, state: State, dtype: torch.dtype) -> Any:
        original = Original(config, state.__getitem__, frozenset(state))
        arrived = {name: way(original, name) for name in state}
        return StepwiseLlama.build(self, config | conversion.fields(config), arrived, dtype)

    return {"build": build}


MISTAKES = [
    mistake(one.name, one.why, one.seen, [_built(one, way) for way in one.ways[1:]], **_built(one, one.ways[0]))
    for one in CONVERSIONS
    if one.ways
]
