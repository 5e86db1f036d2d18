"""How error grows with depth: the implementation runs on its own activations, beside transformers on its own.

A component that is right when asked alone still passes on what it was handed. So this says where a model leaves
transformers' path first and how far it strays, and `blame` says which component is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Handle, Implementation
from llama_reference.judge.localization import Finding, judged
from llama_reference.questions.activations import ATTENTION, MLP, NORM1, NORM2, Inputs
from llama_reference.questions.layer_checks import LayerChecks
from llama_reference.standard import formula

Step = tuple[int | None, str, str, Tensor | None]  # layer, NAME, module, what it answers (B, T, D)


@torch.no_grad()
def running(implementation: Implementation, checks: LayerChecks) -> list[Finding]:
    """The activations of a run by the implementation's own components, in the order of execution.

    The run starts from transformers' embeddings. It ends early at a block that does not answer; another component that
    does not is left out. `blame.find` says why.
    """
    recording, inputs = checks.recording, checks.recording.inputs
    start = recording.out_of["model.embed_tokens"]
    layers = checks.config["num_hidden_layers"]
    handle = or_none(lambda: implementation.build(checks.config, checks.state, checks.dtype))
    if handle is None:
        return []
    ours = _run(implementation, handle, inputs, start, layers)
    exact = _run(formula, formula.build(checks.config, checks.state, checks.dtype), inputs, start.double(), layers)
    real = inputs.real
    steps = []
    for (layer, name, where, answer), (*_, truth) in zip(ours, exact, strict=False):
        if answer is not None and truth is not None:
            theirs = recording.out_of[where][real]
            rows = answer[real] if answer.shape == truth.shape else answer
            steps.append(judged(layer, name, where, "running", rows, theirs, truth[real], checks.dtype))
    return steps


def _run(implementation: Implementation, handle: Handle, inputs: Inputs, x: Tensor, layers: int) -> Iterator[Step]:
    around = inputs.positions, inputs.mask

    def ask(name: str, x: Tensor | None, *after: Any, which: tuple[Any, ...] = ()) -> Tensor | None:
        if x is None:
            return None
        return or_none(lambda: getattr(implementation, name)(handle, *which, x.clone(), *after))

    for layer in range(layers):
        at = f"model.layers.{layer}"
        y = ask("rms_norm", x, which=(f"{at}.{NORM1}",))
        yield layer, "rms_norm", f"{at}.{NORM1}", y
        read = ask("attention", y, *around, which=(layer,))
        yield layer, "attention", f"{at}.{ATTENTION}", read
        h = x + read if read is not None and read.shape == x.shape else None
        y = ask("rms_norm", h, which=(f"{at}.{NORM2}",))
        yield layer, "rms_norm", f"{at}.{NORM2}", y
        yield layer, "swiglu", f"{at}.{MLP}", ask("swiglu", y, which=(layer,))
        after = ask("block", x, *around, which=(layer,))
        yield layer, "block", at, after
        if after is None:
            return
        x = after
    yield None, "rms_norm", "model.norm", ask("rms_norm", x, which=("model.norm",))
    yield None, "llama", "lm_head", ask("llama", inputs.tokens, *around)


def or_none(answer: Callable[[], Any]) -> Any:
    """The answer; None where it is not given."""
    try:
        return answer()
    except Exception:
        return None
