"""Weights in pages of 2 MB, where Linux has them: a processor that reads memory from end to end looks up the address of
every page, and 512 times as many look-ups can halve the bandwidth (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor

MADV_COLLAPSE = 25  # Linux 6.1 and later; Python has no name for it
NEIGHBOURS = 1 << 16  # largest gap, in bytes, between two tensors of one stretch of memory


def use_large_pages(tensors: Iterable[Tensor]) -> None:
    """Ask Linux to move the memory of the tensors into large pages; their addresses stay.

    Memory that cannot be moved, for instance the pages of a mapped file, stays as it is. Other systems ignore the call.
    """
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for start, end in _stretches(tensors):
        start -= start % mmap.PAGESIZE
        madvise(start, end - start, MADV_COLLAPSE)


def _stretches(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """First and last address of each stretch of memory; neighbouring tensors share one."""
    found: list[tuple[int, int]] = []
    for start, size in sorted((x.data_ptr(), x.numel() * x.element_size()) for x in tensors):
        if found and start - found[-1][1] <= NEIGHBOURS:
            found[-1] = found[-1][0], max(found[-1][1], start + size)
        else:
            found.append((start, start + size))
    return found
