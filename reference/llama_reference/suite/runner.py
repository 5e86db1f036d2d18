"""Runs the plan without pytest: a process for each component, several at once, one progress bar.

An adapter is loaded in the processes that ask it and nowhere else, so that one that crashes ends its component only.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llama_reference.adapter_loader import load
from llama_reference.command_line import UsageError
from llama_reference.implementation import FUNCTIONS
from llama_reference.report.results import Results, about
from llama_reference.standard.outcome import Outcome
from llama_reference.standard.profile import FULL, restricted
from llama_reference.suite.plan import items
from llama_reference.suite.session import Session

# The longest first, so that the last process does not start when the others are done.
BY_COST = ("generate", "rotary", "kv_cache", "llama", "attention", "block", "swiglu", "sampling", "rms_norm", "loss")
PRELOADED = ["llama_reference.suite.session"]


class AdapterError(UsageError):
    """An adapter that cannot be loaded; the message holds its own error."""


@dataclass(frozen=True)
class Job:
    """A component to ask, in a process of its own."""

    adapter: Path
    component: str
    quick: bool

    def run(self, answer: Connection) -> None:
        """Ask everything; send True after each item, and the results at the end."""
        torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
        session = Session(load(self.adapter), Results())
        for item in items(self.component, self.quick):
            session.ask(item)
            answer.send(True)
        session.survey(self.component)
        answer.send(session.results.values())


@dataclass(frozen=True)
class Child:
    """A process, and the end of the pipe on which it is heard."""

    process: BaseProcess
    heard: Connection

    @classmethod
    def start(cls, target: Any, *arguments: Any) -> Child:
        """Call target(*arguments, connection) in a clean process that has the suite imported already."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        heard, said = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(*arguments, said), daemon=True)
        process.start()
        said.close()
        return cls(process, heard)

    def receive(self) -> Any:
        """The next message, or None where the process has ended without one."""
        try:
            return self.heard.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None


def described(adapter: Path) -> dict[str, str]:
    """How the adapter is judged, and with which versions. Raises AdapterError; the adapter is loaded elsewhere."""
    child = Child.start(_describe, adapter)
    message = child.receive()
    if message is None:
        code = child.process.exitcode
        raise AdapterError(f"{adapter}: the process ended while loading it (exit code {code})")
    bitwise, error = message
    if error:
        raise AdapterError(error)
    return about(adapter, bitwise)


def _describe(adapter: Path, answer: Connection) -> None:
    try:
        module = load(adapter)
    except ImportError as error:
        answer.send((False, str(error)))
        return
    if not any(hasattr(module, name) for name in FUNCTIONS):
        answer.send((False, f"{adapter}: defines none of the functions that llama_reference.implementation describes"))
        return
    try:
        restricted(FULL, getattr(module, "SUPPORTS", {}))
    except ValueError as error:
        answer.send((False, f"{adapter}: {error}"))
        return
    answer.send((getattr(module, "BITWISE", False), ""))


def run(adapter: Path, components: tuple[str, ...], quick: bool, processes: int, show: bool) -> Results:
    """Ask an adapter about the components. Raises AdapterError before anything is asked."""
    results = Results(described(adapter))
    waiting = [Job(adapter, name, quick) for name in BY_COST if name in components]
    total = sum(1 for job in waiting for _ in items(job.component, quick))
    running: dict[Connection, tuple[Job, Child]] = {}
    with tqdm(total=total, unit=" questions", disable=not show, leave=False, dynamic_ncols=True) as bar:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                child = Child.start(job.run)
                running[child.heard] = job, child
            for heard in wait(list(running)):
                job, child = running[heard]  # type: ignore[index]
                message = child.receive()
                if message is True:
                    bar.update()
                    bar.set_description_str(job.component, refresh=False)
                    continue
                del running[heard]  # type: ignore[arg-type]
                if message is not None:
                    results.merge(Results.of(message))
                    continue
                lost = f"the process ended before it had answered everything (exit code {child.process.exitcode})"
                results.add_trouble(Outcome.BROKEN, job.component, "", f"test_{job.component}.py", lost)
    return results
