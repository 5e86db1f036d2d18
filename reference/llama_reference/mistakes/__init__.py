"""Known mistakes, executable, by component: NAME.py holds those in NAME."""

from dataclasses import replace

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
)
from llama_reference.mistakes.mistake import Mistake
from llama_reference.standard.profile import FULL, Profile

__all__ = ["COMPONENTS", "Mistake", "of"]

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


# Where a mistake in a part shows that does not answer alone: the smallest of these that does.
_AROUND = {
    "rms_norm": ("block", "llama"),
    "rotary": ("attention", "block", "llama"),
    "attention": ("block", "llama"),
    "swiglu": ("block", "llama"),
    "block": ("llama",),
}


def of(component: str, profile: Profile = FULL) -> tuple[Mistake, ...]:
    """All known mistakes of a component, and of its parts that do not answer alone, as mistakes of the component."""
    adopted = [
        replace(mistake, component=component)
        for part, around in _AROUND.items()
        if part not in profile.parts and next(x for x in around if x in ("llama", *profile.parts)) == component
        for mistake in _MISTAKES[part]
    ]
    return (*_MISTAKES[component], *adopted)
