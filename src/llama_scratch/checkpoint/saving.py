"""Replace the checkpoint in a directory by another one atomically.

config.json and the weights must change together, and a file system renames only one thing at a time. So for a moment
the file names are links through one name, `current`, and that name is renamed:

    1  the new files are written to .saving-X/new/ and flushed to disk
    2  the old ones are linked into .saving-X/old/, and each name in the directory is replaced by a symbolic link to
       .saving-X/current/NAME, where `current` points to `old`: every name still opens what it opened before
    3  `current` is replaced by a link to `new`, which is atomic
    4  each link is replaced by its file, or removed if it has none; .saving-X is removed

A kill before 3 leaves the old checkpoint and one after it the new one, complete and under the usual names, for every
reader; the next save finishes it with step 4. One process saves at a time: a lock is held from 1 to 4. Other files are
not touched. Files are replaced, never overwritten in place, so a memory-mapped one, even of the model that is being
saved, keeps its bytes. If the file system has no links, the files are renamed one after another, config.json last,
which a kill can interrupt.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint.atomic import atomic_file, flush, locked

STAGING = ".saving-"
LOCK = "saving"
# what a save replaces or removes
OURS = re.compile(r"(generation_)?config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def replace_checkpoint(directory: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    """Replace the checkpoint in `directory` by `files`: name -> function that writes it to a path. Raises OSError.

    Waits for another process that saves there: the later checkpoint stays.
    """
    with locked(directory / LOCK):
        _replace(directory, files)


def _replace(directory: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    finish_interrupted(directory)
    staging = directory / f"{STAGING}{secrets.token_hex(4)}"
    try:
        for part in ("new", "old"):
            (staging / part).mkdir(parents=True)
        for name, write in files.items():
            with atomic_file(staging / "new" / name) as made:
                write(made)
        try:
            _link(directory, staging, set(files))
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            finish_interrupted(directory, staging)
            _rename(directory, staging, files)
        else:
            _switch_to(staging, "new")
    finally:
        finish_interrupted(directory)


def _link(directory: Path, staging: Path, names: set[str]) -> None:
    """Do step 2."""
    _switch_to(staging, "old")
    present = {path.name for path in directory.iterdir() if OURS.fullmatch(path.name)}
    for name in sorted(present):
        if (directory / name).is_symlink():  # as in a cache of the hub
            (staging / "old" / name).symlink_to((directory / name).resolve())
        else:
            os.link(directory / name, staging / "old" / name)
    for name in sorted(names | present):
        link = staging / f"link-{name}"
        link.symlink_to(Path(staging.name, "current", name))
        link.replace(directory / name)
    flush(directory)


def _switch_to(staging: Path, target: str) -> None:
    """Point `current` to `target`, atomically."""
    (staging / "next").symlink_to(target)
    (staging / "next").replace(staging / "current")
    flush(staging)


def _rename(directory: Path, staging: Path, names: Mapping[str, Any]) -> None:
    """Rename the files one by one, for a file system without links; config.json is the last of `names`."""
    for name in names:
        (staging / "new" / name).replace(directory / name)
    for path in directory.iterdir():
        if OURS.fullmatch(path.name) and path.name not in names:
            path.unlink()


def finish_interrupted(directory: Path, keep: Path | None = None) -> None:
    """Finish interrupted saves (step 4). Every file name keeps resolving to the same contents throughout."""
    for path in list(directory.iterdir()):
        if path.is_symlink() and str(path.readlink()).startswith(STAGING):
            if path.exists():
                (directory / path.readlink()).replace(path)
            else:
                path.unlink()
    flush(directory)
    for staging in directory.glob(f"{STAGING}*"):
        if staging != keep:
            shutil.rmtree(staging)
