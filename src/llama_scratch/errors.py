"""The base class of every error that this package raises on purpose."""

MESSAGE = 2000  # characters


class LlamaScratchError(Exception):
    """An error that a user can mend; the message is one line that names the file, key or flag."""

    def __init__(self, message: str) -> None:
        # Names come out of files: a line break, a terminal's escape or a megabyte must not pass.
        line = "".join(c if c.isprintable() else " " for c in message[: 4 * MESSAGE])
        line = " ".join(line.split())
        super().__init__(line if len(line) <= MESSAGE else line[:MESSAGE] + " …")
