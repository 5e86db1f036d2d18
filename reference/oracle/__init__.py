"""transformers, as an implementation: every function of reference.implementation."""

from reference.oracle.attention import attention
from reference.oracle.block import block
from reference.oracle.generate import generate
from reference.oracle.llama import build, crop, llama, new_cache, parameters, reorder
from reference.oracle.loss import loss
from reference.oracle.rms_norm import rms_norm
from reference.oracle.rotary import rotary
from reference.oracle.sampling import sampling
from reference.oracle.swiglu import swiglu

__all__ = [
    "attention",
    "block",
    "build",
    "crop",
    "generate",
    "llama",
    "loss",
    "new_cache",
    "parameters",
    "reorder",
    "rms_norm",
    "rotary",
    "sampling",
    "swiglu",
]
