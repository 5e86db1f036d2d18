"""Runs the plan without pytest: several processes that have the adapter loaded, one progress bar.

The clearest question of every component comes first, so that something is known soon; then one component after
another, the longest first; what is wrong is diagnosed at the end. An adapter is loaded in the processes that ask it
and nowhere else. One that crashes or does not answer ends the questions about one component: what is known is kept.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait

from tqdm import tqdm

from llama_reference.adapter_loader import AdapterError
from llama_reference.report.results import ANSWERS, Diagnosis, Results, about
from llama_reference.report.summary import is_wrong, verdict
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.plan import Item, items, left_out
from llama_reference.suite.worker import Diagnose, Source, Survey, Task, Worker

# The longest first, so that the last process does not start when the others are done.
BY_COST = ("generate", "rotary", "kv_cache", "llama", "attention", "block", "swiglu", "sampling", "rms_norm", "loss")
PATIENCE = 120.0  # seconds that a diagnosis may take: what is wrong is known without it


@dataclass(frozen=True)
class Limits:
    """Seconds: of the whole run, from its first question on, and of one question."""

    run: float | None = None
    question: float = 300.0


Question = tuple[str, str, str]  # component, variant, dtype


def _among(asked: Iterable[Item], only: Container[Question] | None) -> Iterator[Item]:
    """All, or of the answers those that are among these questions."""
    for item in asked:
        question = item.component, item.variant, str(item.dtype).removeprefix("torch.")
        if only is None or (item.section == ANSWERS and question in only):
            yield item


class Plan:
    """What is still to be asked, by component, and who is at it."""

    def __init__(
        self, components: tuple[str, ...], quick: bool, results: Results, only: Container[Question] | None = None
    ) -> None:
        self.results = results
        asked = {name: deque(_among(items(name, quick), only)) for name in BY_COST if name in components}
        self.waiting = {name: those for name, those in asked.items() if those}
        self._begun: set[str] = set()
        self._surveyed: set[str] = set()
        self._diagnosed: set[str] = set()

    @property
    def questions(self) -> int:
        return sum(map(len, self.waiting.values()))

    def next(self, last: str, busy: set[str]) -> Task | None:
        """The next task for a process that was at the component `last`; the busy ones have a process each."""
        free = [name for name in self.waiting if name not in busy]
        for name in reversed(free):  # the cheapest first
            if name not in self._begun:
                self._begun.add(name)
                return self.waiting[name].popleft()
        for name in sorted(free, key=lambda name: name != last):
            if item := self._item(name):
                return item
        for name in free:
            if not self.waiting[name] and name not in self._surveyed:
                self._surveyed.add(name)
                if name not in self.results.unasked:
                    return Survey(name, self.results.of_component(name).values())
            if not self.waiting[name] and name not in self._diagnosed and is_wrong(self.results, name):
                self._diagnosed.add(name)
                return Diagnose(name)
        return None

    def _item(self, component: str) -> Item | None:
        while queue := self.waiting[component]:
            item = queue.popleft()
            if not (why := left_out(item, self.results)):
                return item
            self.results.leave_out(component, why, str(item))
        return None

    def put_back(self, task: Task) -> None:
        """A task that nobody can do yet."""
        if isinstance(task, Diagnose):
            self._diagnosed.discard(task.component)
        elif isinstance(task, Survey):
            self._surveyed.discard(task.component)
        else:
            self.waiting[task.component].appendleft(task)
            self._begun.discard(task.component)

    def drop(self, component: str, why: str) -> None:
        """Ask no more about the component."""
        for item in self.waiting[component]:
            self.results.leave_out(component, why, str(item))
        self.waiting[component].clear()

    def stop(self, why: str, running: list[Task]) -> None:
        """Ask no more at all."""
        for task in running:
            if isinstance(task, Item):
                self.results.leave_out(task.component, why, str(task))
        for name in self.waiting:
            self.drop(name, why)
        self.results.cut_short = why


class Crew:
    """The processes that ask, and what they find out."""

    def __init__(self, adapter: Source, plan: Plan, limits: Limits, processes: int) -> None:
        self.adapter = adapter
        self.plan = plan
        self.limits = limits
        self.processes = processes
        self.workers: list[Worker] = []
        self.deadline = math.inf

    def start(self) -> bool:
        """Start the first process alone, so that bad adapters are told once. Returns whether it claims bits."""
        worker = Worker.start(self.adapter)
        self.workers.append(worker)
        if not worker.connection.poll(self.limits.question):
            late = f"not imported and built within {self.limits.question:g} s"
            raise AdapterError(f"{self.adapter}: {late}{worker.end()}")
        message = worker.receive()
        if message is None:
            place = worker.end()
            raise AdapterError(f"{self.adapter}: the process ended while it was loaded ({worker.ended_by()}){place}")
        bitwise, error, details = message
        if error:
            raise AdapterError(error, details)
        worker.is_ready = True
        if self.limits.run is not None:  # how long imports take is not the adapter's affair
            self.deadline = time.monotonic() + self.limits.run
        return bool(bitwise)

    def work(self, after_each: Callable[[Task], None]) -> None:
        """Ask until nothing is left or the time is up; after_each is called with every task that is done."""
        try:
            while self._give_out():
                for connection in wait([worker.connection for worker in self._occupied], self._until_late()):
                    worker = next(worker for worker in self.workers if worker.connection is connection)
                    if task := self._hear(worker):
                        after_each(task)
                for worker in [worker for worker in self._occupied if self._is_late(worker)]:
                    self._lose(worker, f"no answer within {self._limit(worker):g} s: it hangs or is slow")
                if time.monotonic() >= self.deadline:
                    self._stop(f"--time-limit {self.limits.run:g}")
        except KeyboardInterrupt:
            self._stop("Ctrl-C")

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    @property
    def _occupied(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.task or not worker.is_ready]

    def _give_out(self) -> bool:
        """A task for everybody who has none, and processes as long as there are tasks; whether there is work."""
        while True:
            idle = next((worker for worker in self.workers if worker.is_ready and not worker.task), None)
            busy = {worker.component for worker in self.workers if worker.task}
            task = self.plan.next(idle.component if idle else "", busy) if idle or self._may_grow(busy) else None
            if task is None:
                return bool(self._occupied)
            if idle is None:
                self.plan.put_back(task)
                self.workers.append(Worker.start(self.adapter))
                return True
            idle.give(task)

    def _may_grow(self, busy: set[str]) -> bool:
        return len(self.workers) < min(self.processes, len(self.plan.waiting)) and len(busy) < len(self.plan.waiting)

    def _hear(self, worker: Worker) -> Task | None:
        """Take in what a process has found out about its task."""
        message, task = worker.receive(), worker.task
        if message is None:
            self._lose(worker, f"the adapter's process ended ({worker.ended_by()})")
            return task
        if not worker.is_ready:
            worker.is_ready = True
            return None
        worker.task = None
        self.plan.results.merge(Results.of(message))
        return task

    def _lose(self, worker: Worker, what: str) -> None:
        """A process that ended, or that has to be ended: its component is asked no more."""
        self.workers.remove(worker)
        message, task = what + worker.end(), worker.task
        if isinstance(task, Diagnose):
            self.plan.results.diagnoses[task.component] = Diagnosis(otherwise=f"not diagnosed: {message}")
        elif isinstance(task, Item):
            results = self.plan.results
            results.add_trouble(Outcome.TROUBLE, task.component, task.section, str(task), message)
            if task.claim is not None:
                results.add_property(task.component, task.claim.name, Outcome.TROUBLE)
            self.plan.drop(task.component, "trouble at a question before")
        elif not isinstance(task, Survey):  # one that could not even load the adapter
            self.processes = max(len(self.workers), 1)

    def _stop(self, why: str) -> None:
        self.plan.stop(why, [worker.task for worker in self.workers if worker.task])
        self.end()
        self.workers.clear()

    def _limit(self, worker: Worker) -> float:
        return PATIENCE if isinstance(worker.task, Diagnose | Survey) else self.limits.question

    def _is_late(self, worker: Worker) -> bool:
        return time.monotonic() - worker.since >= self._limit(worker)

    def _until_late(self) -> float | None:
        """Seconds until something has to be ended."""
        moments = [self.deadline, *(worker.since + self._limit(worker) for worker in self._occupied)]
        return max(min(moments) - time.monotonic(), 0.0)


def run(
    adapter: Source,
    components: tuple[str, ...],
    quick: bool,
    processes: int,
    limits: Limits,
    show: bool = False,
    only: Container[Question] | None = None,
) -> Results:
    """Ask an adapter about the components. Raises AdapterError before anything is asked.

    only: nothing but the answers to these questions. show: a progress bar, and a first verdict as soon as every
    component has been asked its clearest question.
    """
    results = Results(about(adapter, bitwise=False))
    plan = Plan(components, quick, results, only)
    crew = Crew(adapter, plan, limits, processes)
    answered: set[str] = set()
    try:
        results.about |= about(adapter, crew.start())
        with tqdm(total=plan.questions, unit=" questions", disable=not show, leave=False, dynamic_ncols=True) as bar:

            def after_each(task: Task) -> None:
                bar.update()
                bar.set_description_str(task.component, refresh=False)
                if len(answered) < len(plan.waiting):
                    answered.add(task.component)
                    if len(answered) == len(plan.waiting) and show:
                        bar.write(f"by one question each: {verdict(results)[1]}", file=sys.stderr)

            crew.work(after_each)
    except KeyboardInterrupt:
        plan.stop("Ctrl-C", [])
    finally:
        crew.end()
    return results
