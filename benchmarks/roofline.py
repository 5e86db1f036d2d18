"""What the machine can do, measured beside what is compared with it: shared machines drift by a factor of two."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

from llama_scratch.fast.pages import use_large_pages

READ = 1 << 29  # bytes: far more than any cache holds


@cache
def _long() -> Tensor:
    x = torch.ones(READ // 4)
    use_large_pages([x])
    x.sum()  # the first pass is slow: the threads are only just being started
    return x


def bandwidth() -> float:
    """Bytes a second of one pass over 512 MB by `torch.sum`, with all of torch's threads, where they are read fastest:
    in large pages.
    """
    x = _long()
    started = time.perf_counter()
    x.sum()
    return READ / (time.perf_counter() - started)
