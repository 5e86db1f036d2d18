"""Ctrl-C, and the SIGTERM of a cluster that wants its machine back, end a run between two steps, never within one."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Inside `with`: `received`, whether there was a signal. A second one acts as usual."""

    def __init__(self) -> None:
        self.received = False
        self._usual: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._usual = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.received = True
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)
