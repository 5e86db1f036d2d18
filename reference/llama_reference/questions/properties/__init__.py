"""Properties: claims about a component that need no second implementation to be true or false.

NAME.py holds those about NAME.
"""

from llama_reference.questions.properties import (
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
from llama_reference.questions.properties.claims import Claim, Draw, SeededDraw

__all__ = ["Claim", "Draw", "SeededDraw", "of"]

_CLAIMS = {
    "rms_norm": tuple(rms_norm.CLAIMS),
    "rotary": tuple(rotary.CLAIMS),
    "attention": tuple(attention.CLAIMS),
    "swiglu": tuple(swiglu.CLAIMS),
    "block": tuple(block.CLAIMS),
    "kv_cache": tuple(kv_cache.CLAIMS),
    "llama": tuple(llama.CLAIMS),
    "loss": tuple(loss.CLAIMS),
    "sampling": tuple(sampling.CLAIMS),
    "generate": tuple(generate.CLAIMS),
}


def of(component: str) -> tuple[Claim, ...]:
    """All claims about a component, in the order of its file."""
    return _CLAIMS[component]
