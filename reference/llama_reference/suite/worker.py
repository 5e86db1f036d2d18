"""A process that has the adapter loaded and answers one task after another: what it does ends nobody else."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from llama_reference.adapter_loader import AdapterError, frames, load
from llama_reference.exchange.files import FileAnswers
from llama_reference.exchange.program import Program, ProgramAnswers
from llama_reference.implementation import FUNCTIONS
from llama_reference.report.results import Results
from llama_reference.standard.cases import HARD, ROPES, weights
from llama_reference.standard.profile import FULL, restricted
from llama_reference.suite import clean_process, trouble
from llama_reference.suite.offered import Offered
from llama_reference.suite.plan import Item
from llama_reference.suite.session import Session
from llama_reference.suite.trouble import NoVerdict

# What nearly everybody can build: tried where the hard configuration cannot be built.
PLAIN = HARD | {"hidden_size": 64, "head_dim": 8, "num_key_value_heads": 8, "rope_parameters": ROPES["default"],
                "attention_bias": False, "mlp_bias": False}  # fmt: skip


Source = Path | Program  # an adapter, a folder of questions and answers, or a program


@dataclass(frozen=True)
class Diagnose:
    """The task of naming what is wrong with a component."""

    component: str

    def __str__(self) -> str:
        return f"{self.component}: which mistake it is"


@dataclass(frozen=True)
class Survey:
    """The task of telling which known mistakes what was asked of a component could not show."""

    component: str
    known: dict[str, Any]  # the values of its Results

    def __str__(self) -> str:
        return f"{self.component}: which mistakes were not seen"


Task = Item | Diagnose | Survey


@dataclass
class Worker:
    """The process, the connection to it, and what it is doing since when."""

    adapter: Source
    process: BaseProcess
    connection: Connection
    stack: Path
    task: Task | None = None
    component: str = ""
    is_ready: bool = False  # the adapter is loaded
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, adapter: Source) -> Worker:
        """In a clean process that has the suite imported already. The first message is what _load says."""
        context = clean_process.context()
        ours, theirs = context.Pipe()
        handle, name = tempfile.mkstemp(prefix="llama_reference-")
        os.close(handle)
        adapter = adapter.resolve() if isinstance(adapter, Path) else adapter
        process = context.Process(target=_serve, args=(adapter, name, theirs), daemon=True)
        process.start()
        theirs.close()
        return cls(adapter, process, ours, Path(name))

    def give(self, task: Task) -> None:
        """Set it to work."""
        self.task = task
        self.component = task.component
        self.since = time.monotonic()
        self.connection.send(task)

    def receive(self) -> Any:
        """The next message, or None where the process has ended without one."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None

    def end(self) -> str:
        """End the process; where in the adapter it was, as far as that can be told."""
        if self.process.is_alive():
            if self.task or not self.is_ready:
                os.kill(self.process.pid or 0, signal.SIGUSR1)  # it writes its stack
                time.sleep(0.1)
            self.process.kill()
            self.process.join()
        text = self.stack.read_text(encoding="utf-8", errors="replace") if self.stack.exists() else ""
        self.stack.unlink(missing_ok=True)
        self.connection.close()
        place = re.search(rf'File "{re.escape(str(self.adapter))}", line (\d+) in (\w+)', text)
        return f", in {place[2]} ({Path(str(self.adapter)).name}:{place[1]})" if place else ""

    def ended_by(self) -> str:
        """How the process ended, in words."""
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(adapter: Source, stack: str, connection: Connection) -> None:
    """Load the adapter; then do every task that comes, and send what it adds to the Results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with Path(stack).open("w") as file:
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file)
        torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
        try:
            module = load_and_build(adapter)
        except AdapterError as error:
            connection.send((False, str(error), error.details))
            return
        connection.send((getattr(module, "BITWISE", False), "", ""))
        session = Session(module, Results(), driven=True)
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            do(task, session)
            connection.send(session.results.values())


def do(task: Task, session: Session) -> None:
    """Do one task; what it adds to the Results is in session.results afterwards, and nothing else."""
    session.results = Results()
    if isinstance(task, Diagnose):
        session.diagnose(task.component)
    elif isinstance(task, Survey):
        session.results = Results.of(task.known)
        session.survey(task.component)
        session.results = Results(unseen=session.results.unseen)
    else:
        session.ask(task)


def load_and_build(adapter: Source) -> Any:
    """What is to be asked. Raises AdapterError where there is nothing to ask."""
    if isinstance(adapter, Program):
        return ProgramAnswers(adapter)
    if adapter.is_dir():
        return FileAnswers(adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # also what Python hides, as a rule, of other people's modules
        module = load(adapter)
    if not any(hasattr(module, name) for name in FUNCTIONS):
        raise AdapterError(f"{adapter}: defines none of the functions that llama_reference.implementation describes")
    must_be_usable(module, adapter)
    return module


def must_be_usable(module: object, adapter: Path) -> None:
    """Raise AdapterError where SUPPORTS is not valid, or neither the hard model nor a plain one can be built."""
    try:
        restricted(FULL, getattr(module, "SUPPORTS", {}))
    except ValueError as error:
        raise AdapterError(f"{adapter}: {error}") from error
    failed: NoVerdict | None = None
    for config in (HARD, PLAIN):
        try:
            Offered(module).build(config, weights(config, 0), torch.float32)
        except NotImplementedError:
            return  # it lacks build, or does not offer this configuration: that is told question by question
        except NoVerdict as problem:
            failed = problem
        else:
            return
    if failed is not None:
        raise AdapterError(
            f"{adapter}: {trouble.reason(failed)}", frames(failed.__cause__ or failed, adapter.resolve())
        )
