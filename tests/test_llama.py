"""The whole model: answers, gradients, properties."""

from llama_reference.suite.declare import declared

globals().update(declared("llama"))
