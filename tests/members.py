"""Whatever is asked and compared is a member of the protocol that questions are written against. mypy checks it."""

from typing import Protocol

from llama_reference.implementation import (
    Block,
    Generate,
    Implementation,
    KVCache,
    Loss,
    RmsNorm,
    Rotary,
    Sampling,
    SwiGLU,
)
from llama_reference.standard import formula, oracle
from llama_reference.standard.random_rounding import RandomRounding
from llama_reference.standard.stepwise import StepwiseLlama
from tests.adapters import fast, huggingface, ours


class NotDifferentiated(RmsNorm, Rotary, SwiGLU, Block, KVCache, Loss, Sampling, Generate, Protocol):
    """A partial adapter: without `parameters`."""


_oracle: Implementation = oracle
_formula: Implementation = formula
_stepwise: Implementation = StepwiseLlama()
_random_rounding: Implementation = RandomRounding(seed=0)
_ours: Implementation = ours
_huggingface: Implementation = huggingface
_fast: NotDifferentiated = fast
