"""transformers behind the protocol: the suite must accept the standard that it compares with."""

from reference.oracle import (
    attention,
    block,
    build,
    generate,
    llama,
    loss,
    new_cache,
    parameters,
    rms_norm,
    rotary,
    sampling,
    swiglu,
)

BITWISE = True

__all__ = [
    "attention",
    "block",
    "build",
    "generate",
    "llama",
    "loss",
    "new_cache",
    "parameters",
    "rms_norm",
    "rotary",
    "sampling",
    "swiglu",
]
