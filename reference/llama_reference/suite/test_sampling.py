"""The next token's distribution: answers and properties."""

from llama_reference.suite.declare import declared

globals().update(declared("sampling"))
