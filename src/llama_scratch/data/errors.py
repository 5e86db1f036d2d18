"""The error of everything that reads and prepares text."""


class DataError(Exception):
    """Text that cannot be trained on; the message names the file, and the line, and says what to do."""
