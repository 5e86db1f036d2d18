"""A long sequence of tokens in memory-mapped files, 16 bits per token if the vocabulary allows it."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llama_scratch.data.sizes import SIZES


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Smallest dtype that holds every id: uint16 up to 65,536 ids, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_shards(
    directory: Path, part: str, arrays: Iterator[np.ndarray], size: int = SIZES.shard
) -> list[tuple[str, int]]:
    """Write `arrays` one after another to PART-00000.bin, PART-00001.bin, …, each but the last of at least `size`
    tokens; return their names and numbers of tokens. Raises OSError.
    """
    shards: list[tuple[str, int]] = []
    array = next(arrays, None)
    while array is not None:
        name = f"{part}-{len(shards):05}.bin"
        count = 0
        with (directory / name).open("wb") as file:
            while array is not None and count < size:
                file.write(array.tobytes())
                count += len(array)
                array = next(arrays, None)
        shards.append((name, count))
    return shards


class TokenArray:
    """The tokens of several files as one sequence."""

    def __init__(self, files: Sequence[Path], dtype: np.dtype[np.unsignedinteger]) -> None:
        self._maps = [np.memmap(file, dtype, mode="r") for file in files]
        self._ends = list(accumulate(map(len, self._maps)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, count: int) -> Int[Tensor, " tokens"]:
        """Read tokens `start` to `start + count`, fewer at the end."""
        parts: list[np.ndarray] = []
        shard = bisect.bisect_right(self._ends, start)
        while count > 0 and shard < len(self._maps):
            place = start - (self._ends[shard] - len(self._maps[shard]))
            part = self._maps[shard][place : place + count]
            parts.append(part)
            start += len(part)
            count -= len(part)
            shard += 1
        return torch.from_numpy(np.concatenate(parts or [np.empty(0)]).astype(np.int64))
