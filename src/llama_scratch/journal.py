"""What a training run says: a live line in the terminal, and a row in log.jsonl every few steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

EVERY = 10  # steps a row
Row = dict[str, Any]


class Journal:
    """Collects the rows of a run of `steps` steps of `tokens_per_step` tokens, and writes them to `path` at once."""

    def __init__(self, path: Path, steps: int, tokens_per_step: int) -> None:
        self.history: list[Row] = []
        self._path, self._steps, self._tokens_per_step = path, steps, tokens_per_step
        self._losses: list[Tensor] = []
        self._validation: float | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        line = "{percentage:3.0f}% |{bar:20}| step {n}/{total}{desc}  {elapsed} gone, {remaining} left"
        self._bar = tqdm(total=self._steps, bar_format=line, mininterval=0.5, dynamic_ncols=True)
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()

    def say(self, text: str) -> None:
        """A line above the live one."""
        self._bar.write(text)

    def record(self, step: int, loss: Tensor, learning_rate: float, validation: float | None) -> None:
        """Notes step 0, 1, …: its loss in nats a token and, where it was validated, the bits a byte."""
        self._losses.append(loss)
        self._bar.update()
        done = step + 1
        if done % EVERY and done != self._steps and validation is None:
            return
        seconds = time.perf_counter() - self._started
        row: Row = {
            "step": done,
            "loss": torch.stack(self._losses).mean().item(),
            "learning_rate": learning_rate,
            "tokens_per_second": round(done * self._tokens_per_step / seconds),
            "seconds": round(seconds, 2),
        }
        if validation is not None:
            self._validation = row["validation_bits_per_byte"] = validation
        self._losses.clear()
        self.history.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        validated = f"  validation {self._validation:.3f} bits/byte" if self._validation is not None else ""
        speed = f"{row['tokens_per_second'] / 1000:.1f}k tokens/s"
        self._bar.set_description_str(f"  loss {row['loss']:.3f}{validated}  {speed}", refresh=False)
