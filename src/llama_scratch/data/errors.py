"""The error of reading and preparing text."""

from llama_scratch.errors import LlamaScratchError


class DataError(LlamaScratchError):
    """Text that cannot be used; the message names file and line, and says what to do."""
