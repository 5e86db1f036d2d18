"""How much is read, held in memory and written at a time."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """Limits of the preparation of a text."""

    block: int = 1 << 18
    """Bytes read at a time."""
    chunk: int = 1 << 14
    """Characters of a TextChunk: SentencePiece takes longer per character for longer ones."""
    line: int = 1 << 26
    """Most characters of a JSON line or object, which is parsed in memory."""
    single_process: int = 1 << 23
    """Characters that one process tokenises before others would have started."""
    validation: int = 1 << 20
    """Most characters of the held-out text: every evaluation reads all of them."""
    shard: int = 1 << 27
    """Tokens per file."""


SIZES = Sizes()
