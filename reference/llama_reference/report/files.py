"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import tempfile
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Under a temporary name first, so that a crash leaves the old file or the new one."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.resolve().parent, delete=False) as file:
        try:
            file.write(text)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
