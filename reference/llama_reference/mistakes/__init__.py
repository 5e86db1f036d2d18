"""Known mistakes, executable, by component: NAME.py holds those in NAME."""

from llama_reference.implementation import COMPONENTS
from llama_reference.mistakes import (
    attention,
    block,
    generate,
    kv_cache,
    llama,
    loss,
    rms_norm,
    rotary,
    sampling,
    swiglu,
    weights,
)
from llama_reference.mistakes.mistake import Mistake

__all__ = ["COMPONENTS", "Mistake", "in_weights", "of"]

_KNOWN = {
    "rms_norm": rms_norm.MISTAKES,
    "rotary": rotary.MISTAKES,
    "attention": attention.MISTAKES,
    "swiglu": swiglu.MISTAKES,
    "block": block.MISTAKES,
    "kv_cache": kv_cache.MISTAKES,
    "llama": llama.MISTAKES,
    "loss": loss.MISTAKES,
    "sampling": sampling.MISTAKES,
    "generate": generate.MISTAKES,
}
_MISTAKES = {name: tuple(Mistake(name, *entry) for entry in known) for name, known in _KNOWN.items()}

_IN_WEIGHTS = tuple(Mistake("weights", *entry) for entry in weights.MISTAKES)


def of(component: str) -> tuple[Mistake, ...]:
    """All known mistakes of a component."""
    return _MISTAKES[component]


def in_weights(component: str) -> tuple[Mistake, ...]:
    """The mistakes in how weights reach a component; none where it has no weights."""
    return () if component in ("rotary", "loss", "sampling") else _IN_WEIGHTS
