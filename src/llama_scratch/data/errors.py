"""The error of everything that reads and prepares text."""

from llama_scratch.errors import LlamaScratchError


class DataError(LlamaScratchError):
    """Text that cannot be trained on; the message names the file, and the line, and says what to do."""
