"""The metrics of a run: a live line in the terminal, a row in log.jsonl every few steps, and the same to TensorBoard if
that is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from tqdm import tqdm

from llama_scratch.checkpoint.files import write_file
from llama_scratch.training.speed import RunUnits

LOG, TENSORBOARD = "log.jsonl", "tensorboard"
EVERY = 10  # steps per row
LINE = "{percentage:3.0f}% |{bar:16}| step {n}/{total}{desc}  {elapsed} elapsed, {remaining} left"


class Validation(NamedTuple):
    """Results on the held-out text."""

    bits_per_byte: float
    sample: str


@dataclass(frozen=True)
class Metrics:
    """A row of log.jsonl; what is None is left out there."""

    step: int
    loss: float
    """Nats per token, the mean since the row before."""
    bits_per_byte: float
    """The same loss, by the mean number of bytes per token."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens_per_second: int
    share_of_peak: float
    seconds: float
    validation_bits_per_byte: float | None = None
    sample: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class MetricsLogger:
    """Collects the metrics of a run, and writes each row to OUT/log.jsonl at once.

    A run resumed at step `start` keeps the rows up to there. With `shown` False, on every rank but the first, nothing
    is printed or written.
    """

    def __init__(self, out: Path, units: RunUnits, start: int = 0, shown: bool = True) -> None:
        self._path = out / LOG
        self._units = units
        self._shown = shown
        self.history: list[Metrics] = read_log(self._path, start) if start and shown else []
        self._first_step = start
        self._step = start
        self._losses: list[Tensor] = []
        self._seconds = self.history[-1].seconds if self.history else 0.0
        self._board: Any = None
        self._last_row_step = start
        self._last_row_time = 0.0
        self._excluded_seconds = 0.0  # since the last row

    def __enter__(self) -> Self:
        if self._shown:
            lines = "".join(json.dumps(row.to_json()) + "\n" for row in self.history)
            write_file(self._path, lambda path: path.write_text(lines, encoding="utf-8"))
            self._file = self._path.open("ab", buffering=0)  # unbuffered: what a full disk refuses is not retried
            self._board = _tensorboard(self._path.parent, self._first_step)
        self._bar = tqdm(
            total=self._units.steps,
            initial=self._first_step,
            bar_format=LINE,
            mininterval=0.5,
            dynamic_ncols=True,
            disable=not self._shown,
        )
        self._last_row_time = time.perf_counter()
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
        """Print a line above the live one."""
        if self._shown:
            self._bar.write(text)

    @contextmanager
    def excluded_from_timing(self) -> Iterator[None]:
        """Exclude the enclosed time (evaluation, saving) from tokens per second."""
        started = time.perf_counter()
        yield
        self._excluded_seconds += time.perf_counter() - started

    def record(
        self,
        loss: Tensor,
        gradient_norm: Tensor,
        learning_rate: float,
        validation: Validation | None,
        force: bool,
    ) -> None:
        """Record one step: its loss in nats per token, the norm of its gradient before clipping, and the validation.

        A row is written every few steps, with a validation, and if `force`, before a checkpoint.
        """
        self._losses.append(loss)
        if self._step == self._first_step:  # the first step may compile: the time left is estimated from the others
            self._bar.unpause()
        self._bar.update()
        self._step += 1
        if self._step % EVERY == 0 or validation is not None or force:
            self._write(self._row(gradient_norm.item(), learning_rate, validation))

    def _row(self, gradient_norm: float, learning_rate: float, validation: Validation | None) -> Metrics:
        now = time.perf_counter()
        elapsed = now - self._last_row_time
        self._seconds += elapsed
        tokens = (self._step - self._last_row_step) * self._units.tokens_per_step
        speed = tokens / (elapsed - self._excluded_seconds)
        nats = torch.stack(self._losses).mean().item()
        self._last_row_time = now
        self._last_row_step = self._step
        self._excluded_seconds = 0.0
        self._losses.clear()
        return Metrics(
            step=self._step,
            loss=nats,
            bits_per_byte=nats / math.log(2) * self._units.tokens_per_byte,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            tokens_per_second=round(speed),
            share_of_peak=round(speed * self._units.flops_per_token / self._units.peak_flops, 4),
            seconds=round(self._seconds, 2),
            validation_bits_per_byte=validation.bits_per_byte if validation is not None else None,
            sample=validation.sample if validation is not None else None,
        )

    def _write(self, row: Metrics) -> None:
        self.history.append(row)
        if not self._shown:
            return
        line = json.dumps(row.to_json()).encode() + b"\n"
        while line:
            line = line[self._file.write(line) :]
        self._bar.set_description_str(self._description(row), refresh=False)
        if self._board is not None:
            for name, value in row.to_json().items():
                if isinstance(value, float | int):
                    self._board.add_scalar(name, value, row.step)

    def _description(self, row: Metrics) -> str:
        last = last_validation(self.history)
        validation = f" (held out {last.validation_bits_per_byte:.3f})" if last is not None else ""
        speed = f"{row.tokens_per_second / 1000:.1f}k tokens/s ({row.share_of_peak:.0%} of peak)"
        return f"  loss {row.loss:.3f} = {row.bits_per_byte:.2f} bits/byte{validation}  {speed}"


def last_validation(history: list[Metrics]) -> Metrics | None:
    """Return the last row with a validation."""
    return next((row for row in reversed(history) if row.validation_bits_per_byte is not None), None)


def read_log(path: Path, last_step: int) -> list[Metrics]:
    """Read the rows up to `last_step`; a last line that a kill has cut short is left out."""
    rows: list[Metrics] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(Metrics(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return [row for row in rows if row.step <= last_step]


def is_installed(name: str) -> bool:
    """Return True if a package of that name can be imported."""
    return importlib.util.find_spec(name) is not None


def _tensorboard(out: Path, start: int) -> Any:
    """Open TensorBoard's log; None if it is not installed."""
    if not is_installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / TENSORBOARD), purge_step=start or None)
