"""Read untrusted files, and write files atomically.

Every problem of a checkpoint is a CheckpointError of one line. JSON is refused if it is too large or too deep, or has a
name twice, because then two readers may understand different things.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint.atomic import atomic_file
from llama_scratch.errors import LlamaScratchError

JSON_BYTES = 100 * 2**20  # the index of the largest Llama has 0.1 of one
JSON_DEPTH = 64


class CheckpointError(LlamaScratchError):
    """A checkpoint that cannot be loaded; the message is one line that names the file and the key."""


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """Convert an error of reading `path`."""
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} is missing")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CheckpointError(f"{path} cannot be read: {reason}")


def exists(path: Path) -> bool:
    """Return True if the path exists. Raises CheckpointError if that cannot be determined."""
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, error) from None


def size(path: Path) -> int:
    """Size of a file in bytes. Raises CheckpointError unless it is a regular file: reading a pipe would block."""
    try:
        length = path.stat().st_size
        regular = path.is_file()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not regular:
        raise CheckpointError(f"{path} cannot be read: not a regular file")
    return length


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises CheckpointError if it is missing or invalid, or exceeds the limits above."""
    if size(path) > JSON_BYTES:
        raise CheckpointError(f"{path} cannot be read: it has {size(path)} bytes, expected at most {JSON_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
        depth = _depth(content)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from None
    if depth > JSON_DEPTH:
        raise CheckpointError(f"{path} cannot be read: it is nested {depth} deep, expected at most {JSON_DEPTH}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content


def _depth(content: Any) -> int:
    if not isinstance(content, dict | list):
        return 0
    return 1 + max(map(_depth, content.values() if isinstance(content, dict) else content), default=0)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file that becomes `path`, atomically."""
    with atomic_file(path) as made:
        write(made)
