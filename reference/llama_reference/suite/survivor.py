"""What outlives a run of pytest in one process: a second process that is told everything, and speaks if the first ends
without a word.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any


class Survivor:
    """The second process, as the first one sees it."""

    def __init__(self) -> None:
        line = [sys.executable, "-m", "llama_reference.suite.survivor"]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, text=True)

    def tell(self, **message: Any) -> None:
        """asks=..., the name of a test; found=..., the values of Results; done=True, at the end."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(OSError):  # it is gone: nothing depends on it
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()

    def end(self) -> None:
        """The run has come to its end, and tells its results itself."""
        self.tell(done=True)
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Listen until the other process has ended; print what it had found out, unless it says that it was done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's affair
    messages = [json.loads(line) for line in sys.stdin if line.endswith("\n")]
    if not messages or "done" in messages[-1]:
        return
    from llama_reference.report import terminal  # which takes seconds, and is rarely needed
    from llama_reference.report.results import Results
    from llama_reference.standard.outcome import Outcome

    results, asked = Results(), ""
    for message in messages:
        asked = message.get("asks", asked)
        if found := message.get("found"):
            results.merge(Results.of(found))
    component = asked.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")
    results.add_trouble(Outcome.TROUBLE, component, "", asked, "the process ended while it was asked this")
    print(f"\n\n{terminal.table(results)}")


if __name__ == "__main__":
    main()
