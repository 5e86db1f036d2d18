"""One long row of tokens in memory-mapped files, 16 bits a token where the vocabulary allows it."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

SHARD = 1 << 27  # tokens a file


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type that holds every id: uint16 up to 65,536 of them, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_shards(directory: Path, part: str, arrays: Iterator[np.ndarray]) -> list[tuple[str, int]]:
    """Writes `arrays` one behind another to PART-00000.bin, PART-00001.bin, … of at least SHARD tokens each but the
    last; returns their names and how many tokens are in each. Raises OSError.
    """
    shards: list[tuple[str, int]] = []
    array = next(arrays, None)
    while array is not None:
        name, count = f"{part}-{len(shards):05}.bin", 0
        with (directory / name).open("wb") as file:
            while array is not None and count < SHARD:
                file.write(array.tobytes())
                count += len(array)
                array = next(arrays, None)
        shards.append((name, count))
    return shards


class TokenArray:
    """The tokens of some files, as if they were in one."""

    def __init__(self, files: Sequence[Path], dtype: np.dtype[np.unsignedinteger]) -> None:
        self._maps = [np.memmap(file, dtype, mode="r") for file in files]
        self._ends = list(accumulate(map(len, self._maps)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, count: int) -> Int[Tensor, " tokens"]:
        """Tokens `start` to `start + count`, fewer at the end of the row."""
        found: list[np.ndarray] = []
        shard = bisect.bisect_right(self._ends, start)
        while count > 0 and shard < len(self._maps):
            place = start - (self._ends[shard] - len(self._maps[shard]))
            found.append(self._maps[shard][place : place + count])
            start, count, shard = start + len(found[-1]), count - len(found[-1]), shard + 1
        return torch.from_numpy(np.concatenate(found or [np.empty(0)]).astype(np.int64))
