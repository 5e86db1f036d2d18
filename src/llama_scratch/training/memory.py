"""What a step frees is kept for the next one (benchmarks/NOTES.md)."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> None:
    """Has glibc keep what this process frees, from now on: every step asks for the same hundreds of megabytes again,
    and what comes anew from Linux is cleared first, page by page.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
