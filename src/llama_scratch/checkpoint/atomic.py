"""Files and directories that appear whole or not at all, made by one process at a time.

    with atomic_file(path) as made:           write the file `made`
    with atomic_directory(path) as made:      fill the directory `made`

A new file or directory is written next to its place, in .NAME.XXXXXXXX.tmp/, flushed to disk and renamed. Meanwhile
.NAME.lock is held, so that no other process takes it for the leftovers of a kill, which only the holder of the lock
removes. Both names are removed at the end. After a kill they stay until the same path is written again: the operating
system releases the lock of a process that has ended.

Python has no call that exchanges two directories atomically. A kill between the two renames leaves the old one inside
.NAME.XXXXXXXX.tmp/, and the next write, or `recover`, restores it.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from llama_scratch.errors import LlamaScratchError

LEFTOVER = re.compile(r"\.(.+?)(?:\.[0-9a-f]{8}\.tmp|\.lock)")
REPLACED = ".replaced"  # the old directory, inside the staging one
PATIENCE = 1.0  # seconds to wait for a lock before logging
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger("llama_scratch")


class InUseError(LlamaScratchError):
    """Another process holds the lock."""


@contextmanager
def atomic_file(path: Path, held: bool | None = None) -> Iterator[Path]:
    """Yield an empty file of the same name to write to, which becomes `path` unless there is an exception.

    Other files written next to it are removed. held: what `locked(path)` yielded, if the caller holds the lock. Raises
    OSError.
    """
    with _lock(path, held) as alone, _staging(path, alone) as staging:
        made = staging / path.name
        made.touch()
        mode = made.stat().st_mode
        yield made
        made.chmod(mode)  # safetensors makes files that only their owner can read
        flush(made)
        made.replace(path)
        flush(path.parent)


@contextmanager
def atomic_directory(path: Path, held: bool | None = None) -> Iterator[Path]:
    """Yield an empty directory of the same name to fill, which becomes `path` unless there is an exception.

    What was at `path` is replaced as a whole; if `path` is a link, its target is. Processes that have its files open
    keep them. held: what `locked(path)` yielded, if the caller holds the lock. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    with _lock(path, held) as alone, _staging(path, alone) as staging:
        made = staging / path.name
        made.mkdir()
        yield made
        for part in (*made.rglob("*"), made):
            flush(part)
        if path.exists():
            path.rename(staging / REPLACED)
        try:
            made.rename(path)
        except OSError:
            if (staging / REPLACED).exists():
                (staging / REPLACED).rename(path)
            raise
        flush(path.parent)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock for writing `path`, and create its parents; after an exception empty new parents are removed.

    Yields False if the file system has no locks: then leftovers of other processes must stay. wait: False to raise
    InUseError if another process holds the lock. Raises OSError if nothing can be written.
    """
    path = Path(os.path.realpath(path.parent), path.name)
    fresh = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
        alone = _acquire(lock, path, wait)
        try:
            yield alone
        finally:
            if alone:
                _release(lock)
    except BaseException:
        for parent in fresh:
            with suppress(OSError):  # not empty
                parent.rmdir()
        raise


def recover(folder: Path) -> None:
    """Remove what killed processes have left in `folder`, and restore what they had moved away.

    What another process is writing at the moment stays. Raises OSError.
    """
    for name in _unfinished(folder):
        with suppress(InUseError), locked(folder / name, wait=False) as alone:
            if alone:
                _recover(folder / name)


def remove_directory(path: Path) -> None:
    """Rename first, so that the directory disappears atomically, then delete it. Raises OSError."""
    gone = _temporary(path)
    path.rename(gone)
    shutil.rmtree(gone)


def flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path, held: bool | None) -> AbstractContextManager[bool]:
    return locked(path) if held is None else nullcontext(held)


@contextmanager
def _staging(path: Path, alone: bool) -> Iterator[Path]:
    """Yield a new directory next to `path`, and remove it at the end."""
    if alone:
        _recover(path)
    staging = _temporary(path)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _recover(path: Path) -> None:
    """Do what `recover` does for one name whose lock is held."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        match = LEFTOVER.fullmatch(leftover.name)
        if match is None or match[1] != path.name:
            continue
        if (leftover / REPLACED).exists() and not path.exists():
            (leftover / REPLACED).rename(path)
        shutil.rmtree(leftover, ignore_errors=True)


def _unfinished(folder: Path) -> set[str]:
    matches = (LEFTOVER.fullmatch(path.name) for path in folder.glob(".*"))
    return {match[1] for match in matches if match}


def _acquire(lock: FileLock, path: Path, wait: bool) -> bool:
    """Acquire the lock; return False if the file system has no locks."""
    try:
        try:
            lock.acquire(timeout=PATIENCE if wait else 0)
        except Timeout:
            if not wait:
                raise InUseError(f"{path} is being written by another process") from None
            log.warning("%s is being written by another process: waiting until it is done", path)
            lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(path.parent)) from None
        Path(lock.lock_file).unlink(missing_ok=True)
        _warn_about_missing_locks(path.parent, error.strerror)
        return False
    return True


def _release(lock: FileLock) -> None:
    """Remove the lock file while it is held: a waiting process notices that, and creates another."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


@cache
def _warn_about_missing_locks(folder: Path, reason: str) -> None:
    log.warning("%s is on a file system without locks (%s): no two processes may write there at once", folder, reason)
