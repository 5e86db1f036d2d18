"""What a training run says: a live line in the terminal, a row in log.jsonl every few steps, and the same to
TensorBoard where that is installed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from llama_scratch.checkpoint.files import write_file
from llama_scratch.training.speed import RunUnits

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
EVERY = 10  # steps a row
VALIDATION = "validation_bits_per_byte"
Row = dict[str, Any]
LINE = "{percentage:3.0f}% |{bar:16}| step {n}/{total}{desc}  {elapsed} elapsed, {remaining} left"


class MetricsLogger:
    """Collects the rows of a run, and writes each to OUT/log.jsonl at once. A run that goes on at step `done` keeps the
    rows up to there. Where `shown` is False, in all processes but the first, it says and writes nothing.
    """

    def __init__(self, out: Path, scale: RunUnits, done: int = 0, shown: bool = True) -> None:
        self._path, self._scale, self._shown = out / LOG, scale, shown
        self.history: list[Row] = read_log(self._path, done) if done and shown else []
        self._begun = self._done = self._noted = done
        self._losses: list[Tensor] = []
        self._seconds = self.history[-1]["seconds"] if self.history else 0.0
        self._board: Any = None

    def __enter__(self) -> Self:
        if self._shown:
            lines = "".join(json.dumps(row) + "\n" for row in self.history)
            write_file(self._path, lambda path: path.write_text(lines, encoding="utf-8"))
            self._file = self._path.open("ab", buffering=0)  # what a full disk refuses is not tried again
            self._board = _tensorboard(self._path.parent, self._done)
        self._bar = tqdm(total=self._scale.steps, initial=self._done, bar_format=LINE, mininterval=0.5,
                         dynamic_ncols=True, disable=not self._shown)  # fmt: skip
        self._since = time.perf_counter()
        self._training = 0.0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._file.close()
        if self._board is not None:
            self._board.close()
        self._bar.close()

    def print(self, text: str) -> None:
        """A line above the live one."""
        if self._shown:
            self._bar.write(text)

    @contextmanager
    def excluded_from_timing(self) -> Iterator[None]:
        """Around what is no training: its time is not held against the tokens a second."""
        started = time.perf_counter()
        yield
        self._training -= time.perf_counter() - started

    def record(self, loss: Tensor, gradient_norm: Tensor, learning_rate: float, more: Row, force: bool) -> None:
        """Notes one step: its loss in nats a token, the norm before clipping, and whatever else is to be logged. A row
        is written every few steps, and by `force`: where a run that goes on will count from.
        """
        self._losses.append(loss)
        if self._done == self._begun:  # the first step, which may have compiled, says nothing about the time left
            self._bar.unpause()
        self._bar.update()
        self._done += 1
        if self._done % EVERY and not (more or force):
            return
        now, scale = time.perf_counter(), self._scale
        self._training += now - self._since
        self._seconds += now - self._since
        speed = (self._done - self._noted) * scale.tokens_per_step / self._training
        nats = torch.stack(self._losses).mean().item()
        row: Row = {
            "step": self._done,
            "loss": nats,
            "bits_per_byte": nats / math.log(2) * scale.tokens_per_byte,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm.item(),
            "tokens_per_second": round(speed),
            "share_of_peak": round(speed * scale.flops_per_token / scale.peak_flops, 4),
            "seconds": round(self._seconds, 2),
            **more,
        }
        self._since, self._training, self._noted = now, 0.0, self._done
        self._losses.clear()
        self._write(row)

    def _write(self, row: Row) -> None:
        self.history.append(row)
        if not self._shown:
            return
        line = json.dumps(row).encode() + b"\n"
        while line:
            line = line[self._file.write(line) :]
        validations = [row[VALIDATION] for row in self.history if VALIDATION in row]
        validated = f" (held out {validations[-1]:.3f})" if validations else ""
        self._bar.set_description_str(
            f"  loss {row['loss']:.3f} = {row['bits_per_byte']:.2f} bits/byte{validated}  "
            f"{row['tokens_per_second'] / 1000:.1f}k tokens/s ({row['share_of_peak']:.0%} of peak)", refresh=False
        )  # fmt: skip
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float | int):
                    self._board.add_scalar(name, value, row["step"])


def read_log(path: Path, done: int) -> list[Row]:
    """The rows up to step `done`; a last line that was cut short by a kill is left out."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return [row for row in rows if row["step"] <= done]


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _tensorboard(out: Path, done: int) -> Any:
    """None where TensorBoard is not installed."""
    if not is_installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / TENSORBOARD), purge_step=done or None)
