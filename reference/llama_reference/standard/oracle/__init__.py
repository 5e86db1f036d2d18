"""transformers, as an implementation: every function of llama_reference.implementation."""

from llama_reference.standard.oracle.attention import attention
from llama_reference.standard.oracle.block import block
from llama_reference.standard.oracle.generate import generate
from llama_reference.standard.oracle.llama import build, crop, llama, new_cache, parameters, reorder
from llama_reference.standard.oracle.loss import loss
from llama_reference.standard.oracle.rms_norm import rms_norm
from llama_reference.standard.oracle.rotary import rotary
from llama_reference.standard.oracle.sampling import sampling
from llama_reference.standard.oracle.swiglu import swiglu

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
