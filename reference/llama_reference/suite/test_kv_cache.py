"""The cache: answers and properties."""

from llama_reference.suite.declare import declared

globals().update(declared("kv_cache"))
