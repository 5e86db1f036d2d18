"""RMSNorm: answers, gradients, properties."""

from llama_reference.suite.declare import declared

globals().update(declared("rms_norm"))
