"""The text of a question: a line for every model, field, weight and call, words apart by one space.

    llama_reference 1
    model float32
    config hidden_size 72
    config rope.rope_type llama3
    weight model.norm.weight data/0c4e….npy
    call rms_norm where=model.norm x=data/9d31….npy answer=0.npy

It is read from top to bottom: `config` and `weight` belong to the model above them, a call to the last model. Of an
engine's cache the number is given; calls with it go on where the last one ended. An answer goes into a file of the
answer's name in the folder of the answers; one without a name is wanted by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from llama_reference.exchange.calls import Cache, Call, Model
from llama_reference.implementation import Config

FORMAT = 1
FIRST = f"llama_reference {FORMAT}"
Place = Callable[[Tensor], str]  # where a tensor is stored: its path


def text(calls: Iterable[Call], place: Place, answer: Callable[[Call, str], str]) -> str:
    """The text of the calls. `answer` gives the name of the file for an output of a call, empty for none."""
    return "\n".join([FIRST, *_lines(calls, place, answer)]) + "\n"


def _lines(calls: Iterable[Call], place: Place, answer: Callable[[Call, str], str]) -> Iterator[str]:
    model, caches = None, dict[Cache, int]()
    for call in calls:
        if call.model is not None and (model is None or model.key != call.model.key):
            model = call.model
            yield from _model(model, place)
        words = ["call", call.function]
        if call.cache is not None:
            assert call.cache in caches or call.function == "new_cache"
            words.append(f"cache={caches.setdefault(call.cache, len(caches))}")
        words += [f"{name}={_argument(value, place)}" for name, value in call.arguments.items()]
        for output in call.outputs:
            if name := answer(call, output):
                words.append(f"answer{'_' * bool(output)}{output}={name}")
        yield " ".join(words)


def _model(model: Model, place: Place) -> Iterator[str]:
    yield f"model {str(model.dtype).removeprefix('torch.')}"
    for name, value in _flat(model.config):
        yield f"config {name} {_word(value)}"
    for name, tensor in model.state.items():
        yield f"weight {name} {place(tensor)}"


def _flat(config: Config) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name == "rope_parameters":
            yield from ((f"rope.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _argument(value: Any, place: Place) -> str:
    return place(value) if isinstance(value, Tensor) else _word(value)


def _word(value: Any) -> str:
    """A value as a word without spaces: numbers with every digit that they need, lists with commas."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value)) or "none"
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return str(int(value))
    return str(value)
