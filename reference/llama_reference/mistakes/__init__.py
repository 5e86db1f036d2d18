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
from llama_reference.standard.profile import FULL, Profile

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


# Where a mistake in a part shows that does not answer alone: the smallest of these that does.
_AROUND = {
    "rms_norm": ("block", "llama"),
    "rotary": ("attention", "block", "llama"),
    "attention": ("block", "llama"),
    "swiglu": ("block", "llama"),
    "block": ("llama",),
}


def of(component: str, profile: Profile = FULL) -> tuple[Mistake, ...]:
    """All known mistakes of a component, and of those parts of it that do not answer alone."""
    adopted = [
        mistake
        for part, around in _AROUND.items()
        if part not in profile.parts and next(x for x in around if x in ("llama", *profile.parts)) == component
        for mistake in _MISTAKES[part]
    ]
    return (*_MISTAKES[component], *adopted)


def in_weights(component: str) -> tuple[Mistake, ...]:
    """The mistakes in how weights reach a component; none where it has no weights."""
    return () if component in ("rotary", "loss", "sampling") else _IN_WEIGHTS
