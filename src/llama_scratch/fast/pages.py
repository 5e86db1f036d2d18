"""Weights in pages of 2 MB, where Linux has them: a processor that reads memory from end to end looks up the address of
every page, and 512 times as many look-ups can cost half of the bandwidth (benchmarks/NOTES.md).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

from torch import Tensor

MADV_COLLAPSE = 25  # Linux 6.1 and later; Python has no name for it
NEIGHBOURS = 1 << 16  # bytes between two tensors that are taken for one stretch of memory


def use_large_pages(tensors: Iterable[Tensor]) -> None:
    """Has the kernel move the memory that the tensors lie in into large pages; their addresses stay. What cannot be
    moved, a file's pages for instance, is left as it is; elsewhere than on Linux, everything.
    """
    if not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for start, end in _stretches(tensors):
        start -= start % mmap.PAGESIZE
        madvise(start, end - start, MADV_COLLAPSE)


def _stretches(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """First and last address of each stretch, tensors that lie side by side in one."""
    found: list[tuple[int, int]] = []
    for start, size in sorted((x.data_ptr(), x.numel() * x.element_size()) for x in tensors):
        if found and start - found[-1][1] <= NEIGHBOURS:
            found[-1] = found[-1][0], max(found[-1][1], start + size)
        else:
            found.append((start, start + size))
    return found
