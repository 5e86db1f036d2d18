"""The time that a run of pytest may take, and one question: one that hangs is ended, and told."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llama_reference.suite.trouble import NoVerdict

TIME_LIMIT = "--time-limit"


class _Late(BaseException):
    """A question's time is up: no Exception, so that no handler of an adapter's errors takes it for one."""


class Watch:
    """The clock of a run. Limits are in seconds."""

    def __init__(self, run: float | None, question: float) -> None:
        self.run, self.limit = run, question
        self._deadline = math.inf if run is None else time.monotonic() + run
        self._hanging: set[str] = set()

    def reason(self, component: str) -> str:
        """Why the component is not asked any more; empty where it is."""
        if component in self._hanging:
            return "trouble at a question before"
        return f"{TIME_LIMIT} {self.run:g}" if time.monotonic() > self._deadline else ""

    @contextmanager
    def question(self, component: str) -> Iterator[None]:
        """Raise NoVerdict within it when the time of one question is up.

        What hangs within a C library hears the signal only when it comes back.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def late(_signal: int, frame: FrameType | None) -> None:
            self._hanging.add(component)
            where = f", in {frame.f_code.co_name} (line {frame.f_lineno})" if frame else ""
            raise _Late(f"no answer within {self.limit:g} s: it hangs or is slow{where}")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            yield
        except _Late as late_one:
            raise NoVerdict(str(late_one)) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
