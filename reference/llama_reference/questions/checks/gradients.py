"""Gradients of a component: those of every input that its question draws, and of every parameter it uses.

The answers of the component's own question, each weighed by fixed random numbers, are summed and differentiated.
Two kinds of answers are left out: those that went through a cache, since whether a graph hangs on what it holds is
nobody's contract; and those of a saturated softmax, whose gradients are small differences of large numbers. (At scores
in the hundreds scaled_dot_product_attention, which is right, is off by 100 ulps there, and transformers by 2.)
"""

from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config, Handle, Implementation, State
from llama_reference.questions.checks import CHECKS
from llama_reference.standard.cases import Case


def ask(component: str, implementation: Implementation, case: Case) -> dict[str, Tensor]:
    """Label -> gradient."""
    built, inputs = _Remembering(implementation), _Inputs(case)
    check = CHECKS[component]
    answers = check.ask(built, inputs)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for label, answer in answers.items():
        weight = torch.randn(answer.shape, generator=generator) / max(answer.numel(), 1) ** 0.5
        if label not in check.not_differentiated:
            total = total + (answer * weight.to(answer.dtype)).double().sum()
    total.backward()
    leaves = {f"input {i}": x for i, x in enumerate(inputs.drawn)} | built.parameters
    return {f"gradient of {name}": x.grad for name, x in leaves.items() if x.grad is not None}


class _Inputs:
    """The case, and every input drawn from it in this one question, in order; the case itself keeps none."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.drawn: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._case, name)

    def normal(self, *shape: int, scale: float = 1.0, salt: int = 0) -> Tensor:
        x = self._case.normal(*shape, scale=scale, salt=salt)
        self.drawn.append(x)
        return x

    def hidden(self, scale: float = 1.0, salt: int = 0) -> Tensor:
        x = self._case.hidden(scale, salt)
        self.drawn.append(x)
        return x


class _Remembering:
    """The implementation, and the parameters of the model that it is asked to build."""

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation
        self.parameters: State = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)

    def build(self, config: Config, state: State, dtype: torch.dtype) -> Handle:
        handle = self._implementation.build(config, state, dtype)
        self.parameters = self._implementation.parameters(handle)
        return handle
