"""The base class of the errors of this package."""

MESSAGE = 2000  # characters


class LlamaScratchError(Exception):
    """An error that the user can correct; the message is one line that names the file, key or flag."""

    def __init__(self, message: str) -> None:
        # Names come from files: line breaks, terminal escapes and megabytes must not be printed.
        line = "".join(c if c.isprintable() else " " for c in message[: 4 * MESSAGE])
        line = " ".join(line.split())
        super().__init__(line if len(line) <= MESSAGE else line[:MESSAGE] + " …")
