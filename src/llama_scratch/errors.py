"""The one root of every error that this package raises on purpose."""


class LlamaScratchError(Exception):
    """Something that a user can mend; the message is one line that names the file, key or flag."""
