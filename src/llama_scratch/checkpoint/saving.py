"""A directory that changes from one checkpoint into another in one instant.

Two files must change together, config.json and the weights, and a file system renames only one thing at a time. So for
a moment the names stand for links through one name, `current`, and that name is what is renamed:

    1  the new files are written to .saving-X/new/ and flushed to disk
    2  the old ones are linked into .saving-X/old/, and each name in the directory is replaced by a symbolic link to
       .saving-X/current/NAME, where `current` leads to `old`: every name still opens what it opened before
    3  `current` is renamed to lead to `new`: the instant
    4  each link is replaced by the file that it leads to, or removed where it leads to nothing; .saving-X is removed

A kill before 3 leaves the old checkpoint and one after it the new one, whole and under the usual names, for every
reader; the next save does step 4 for it. One process saves at a time: a lock is held from 1 to 4. Other files are not
touched. Files are replaced and never written into, so one that is memory-mapped, even by the model that is being saved,
keeps its bytes. Where the file system has no links, the files are renamed one after another, config.json last, which a
kill can cut short.
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
# what a save replaces or removes, whoever wrote it
OURS = re.compile(r"(generation_)?config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def replace_checkpoint(directory: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    """Makes the checkpoint in `directory` consist of `files`: name -> what writes it to a path. Raises OSError.

    Another process that saves there is waited for: the later checkpoint stays, as a whole.
    """
    with locked(directory / LOCK):
        _replace(directory, files)


def _replace(directory: Path, files: Mapping[str, Callable[[Path], Any]]) -> None:
    settle(directory)
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
            settle(directory, staging)
            _rename(directory, staging, files)
        else:
            _lead(staging, "new")
    finally:
        settle(directory)


def _link(directory: Path, staging: Path, names: set[str]) -> None:
    """Step 2."""
    _lead(staging, "old")
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


def _lead(staging: Path, where: str) -> None:
    """Makes `current` lead to `where`, in one instant."""
    (staging / "next").symlink_to(where)
    (staging / "next").replace(staging / "current")
    flush(staging)


def _rename(directory: Path, staging: Path, names: Mapping[str, Any]) -> None:
    """What is done instead, without links; the names of the weights come first in `names`, config.json last."""
    for name in names:
        (staging / "new" / name).replace(directory / name)
    for path in directory.iterdir():
        if OURS.fullmatch(path.name) and path.name not in names:
            path.unlink()


def settle(directory: Path, keep: Path | None = None) -> None:
    """Step 4, for every save that was not ended. The names open the same before, after and at every instant between."""
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
