"""Files and directories that appear whole or not at all, made by one process at a time.

    with atomic_file(path) as made:           write the file `made`
    with atomic_directory(path) as made:      fill the directory `made`

What is being made stands beside its place, in .NAME.XXXXXXXX.tmp/, is flushed to disk and renamed. Meanwhile .NAME.lock
is held, so that nobody takes it for the leftovers of a kill, which only the holder of the lock removes. Both names are
gone afterwards. After a kill they stay until the next making of the same path: the operating system releases the lock
of a process that is gone.

A file system cannot exchange two directories in one instant in any way that Python offers. A kill between the two
renames leaves the old one inside .NAME.XXXXXXXX.tmp/, and the next making, or `settle`, puts it back.
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
PATIENCE = 1.0  # seconds that a lock is waited for in silence
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger("llama_scratch")


class InUseError(LlamaScratchError):
    """Another process holds the lock."""


@contextmanager
def atomic_file(path: Path, held: bool | None = None) -> Iterator[Path]:
    """Yield an empty file of the same name to write to, which becomes `path` unless there is an exception.

    Files that are written beside it are removed. held: what `locked(path)` gave, where the caller is inside it. Raises
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

    Whatever is at `path` before is replaced as a whole; where `path` is a link, what it leads to. Processes that have
    its files open keep them. held: what `locked(path)` gave, where the caller is inside it. Raises OSError.
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
    """Hold the lock on making `path`, and make its parents; those are removed after an exception where they are empty.

    Yields False where the file system has no locks: then nothing of other processes may be removed. wait: False to
    raise InUseError where another process holds it. Raises OSError where nothing can be written.
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


def settle(folder: Path) -> None:
    """Remove what killed makings of anything in `folder` have left, and put back what they had moved away.

    What another process is making at the moment is left alone. Raises OSError.
    """
    for name in _unfinished(folder):
        with suppress(InUseError), locked(folder / name, wait=False) as alone:
            if alone:
                _settle(folder / name)


def remove_directory(path: Path) -> None:
    """Remove it in one instant, as far as its name goes. Raises OSError."""
    gone = _temporary(path)
    path.rename(gone)
    shutil.rmtree(gone)


def flush(path: Path) -> None:
    """Send a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path, held: bool | None) -> AbstractContextManager[bool]:
    return locked(path) if held is None else nullcontext(held)


@contextmanager
def _staging(path: Path, alone: bool) -> Iterator[Path]:
    """Yield a new directory beside `path`, and remove it."""
    if alone:
        _settle(path)
    staging = _temporary(path)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _settle(path: Path) -> None:
    """Do what `settle` does for one name whose lock is held."""
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
    """Whether it is held now; False where the file system has no locks."""
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
        _say_that_there_are_no_locks(path.parent, error.strerror)
        return False
    return True


def _release(lock: FileLock) -> None:
    """Remove the lock file while it is held: whoever waits for it sees that it is gone, and makes another."""
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


@cache
def _say_that_there_are_no_locks(folder: Path, reason: str) -> None:
    log.warning("%s is on a file system without locks (%s): let no two processes write there at once", folder, reason)
