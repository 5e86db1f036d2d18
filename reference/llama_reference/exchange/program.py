"""An implementation that is a program: every call becomes a request in a file, and the program writes its answer.

`./prog {request} {answer}` is started for each request; without the braces the program is started once, and reads from
standard input a line for each: the paths of the request and of the folder for the answers. It writes a line when it is
done. What a call over a cache goes on with is told again in its request, so a program may forget everything between
two. An answer that is not there is not offered.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from llama_reference.exchange import arrays, request
from llama_reference.exchange.arrays import BadAnswer
from llama_reference.exchange.calls import ByCalls, Call, digest

PATIENCE = 3  # unanswered calls of one function, after which it is called no more
SHOWN = 300  # characters of what a program wrote to standard error


@dataclass(frozen=True)
class Program:
    """A command line, how many seconds a request may take, and a folder for requests."""

    command: str
    seconds: float
    folder: Path

    def __str__(self) -> str:
        return self.command


def served(python: Path, adapter: Path) -> str:
    """The command by which another Python answers with the adapter."""
    return shlex.join([str(python), str(Path(__file__).with_name("server.py")), str(adapter.resolve())])


class ProgramAnswers(ByCalls):
    """What the program answers."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._here = Path(tempfile.mkdtemp(dir=program.folder))
        self._number = 0
        self._running: subprocess.Popen[bytes] | None = None
        self._late: Counter[str] = Counter()

    def answer(self, call: Call) -> tuple[Tensor, ...]:
        if not call.outputs:
            return ()
        if self._late[call.function] >= PATIENCE:
            raise BadAnswer(f"{call.function}: called no more, after {PATIENCE} calls without an answer in time")
        self._number += 1
        out = self._here / str(self._number % 2)
        out.mkdir(exist_ok=True)
        for old in out.iterdir():
            old.unlink()
        asked = self._here / "request.txt"
        story = [*(call.cache.calls if call.cache else ()), call]
        text = request.text(story, self._store, lambda one, output: f"answer{output}.npy" if one is call else "")
        asked.write_text(text, encoding="utf-8")
        self._ask(call.function, asked, out)
        return tuple(self._read(call, out / f"answer{output}.npy") for output in call.outputs)

    def _store(self, tensor: Tensor) -> str:
        kind = ".bfloat16" if tensor.dtype == torch.bfloat16 else ""
        path = self._here / "data" / f"{digest(tensor)}{kind}.npy"
        if not path.exists():
            arrays.write(path, tensor)
        return str(path)

    def _read(self, call: Call, path: Path) -> Tensor:
        if not path.is_file():
            raise NotImplementedError
        try:
            found = arrays.read(path)
        except BadAnswer as error:
            raise BadAnswer(f"{call.function}: {self._program} wrote what is no array: {error}") from None
        given = call.model.dtype if call.model else next(iter(call.arguments.values())).dtype
        return arrays.narrowed(found, torch.long if call.function == "generate" else given)

    def _ask(self, function: str, asked: Path, out: Path) -> None:
        """Let the program answer. Raises BadAnswer where it ends in another way than by answering."""
        words = shlex.split(self._program.command)
        once = any("{request}" in word or "{answer}" in word for word in words)
        try:
            if once:
                self._start_for([w.replace("{request}", str(asked)).replace("{answer}", str(out)) for w in words])
            else:
                self._tell(words, f"{asked} {out}\n")
        except TimeoutError:
            self._late[function] += 1
            raise BadAnswer(f"{function}: no answer within {self._program.seconds:g} s") from None
        except OSError as error:
            raise BadAnswer(f"{words[0]}: cannot be started: {error.strerror or error}") from None
        except subprocess.CalledProcessError as error:
            raise BadAnswer(f"{function}: {words[0]} ended ({_ended(error.returncode)}){_said(error.stderr)}") from None

    def _start_for(self, words: list[str]) -> None:
        try:
            done = subprocess.run(words, capture_output=True, timeout=self._program.seconds, check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, words, stderr=done.stderr)

    def _tell(self, words: list[str], line: str) -> None:
        """Write a line to the program, which is started where it does not run, and wait for a line of it."""
        if self._running is None:
            with (self._here / "stderr").open("wb") as errors:
                self._running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        running = self._running
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            running.stdin.write(line.encode())
            running.stdin.flush()
            heard = _line(running.stdout, self._program.seconds)
        except BrokenPipeError:
            heard = b""
        except TimeoutError:
            self._end()
            raise
        if not heard.endswith(b"\n"):
            code = running.wait()
            self._end()
            raise subprocess.CalledProcessError(code, words, stderr=(self._here / "stderr").read_bytes())

    def _end(self) -> None:
        if self._running is not None:
            self._running.kill()
            with suppress(BrokenPipeError), self._running:  # closes its pipes and waits for it
                self._running = None

    def __del__(self) -> None:
        self._end()


def _line(stream: IO[bytes], seconds: float) -> bytes:
    """The next line of a pipe, or what there is of it where the pipe ends. Raises TimeoutError."""
    until, heard = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not heard.endswith(b"\n"):
            if not selector.select(max(until - time.monotonic(), 0)):
                raise TimeoutError
            if not (read := os.read(stream.fileno(), 1)):
                break
            heard += read
    return heard


def _ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _said(stderr: bytes | None) -> str:
    """The end of what a program wrote to standard error, on one line."""
    text = " ".join((stderr or b"").decode(errors="replace").split())
    return f": {'…' * (len(text) > SHOWN)}{text[-SHOWN:]}" if text else ", and wrote nothing to standard error"
