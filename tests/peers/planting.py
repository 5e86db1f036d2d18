"""A mistake planted in somebody else's source: one piece of text replaced, the program imported anew, and judged."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

from llama_reference.adapter_loader import load
from llama_reference.questions.checks.attention import IN_CHUNKS
from llama_reference.report import summary
from llama_reference.report.results import ANSWERS, GRADIENTS, PROPERTIES, Results
from llama_reference.suite.plan import items
from llama_reference.suite.session import Session

HERE = Path(__file__).parent
INSIDE_OUT = ("rms_norm", "rotary", "swiglu", "attention", "block", "llama", "kv_cache")


@dataclass(frozen=True)
class Plant:
    """In the source of `module`, `old`, which stands there once, becomes `new`. `name` is the catalogue's, or a
    family's; several are as true where a | stands between them.
    """

    adapter: str
    component: str
    name: str
    module: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.adapter}-{self.component}-{self.name.partition('|')[0]}"

    def source(self, text: str) -> str:
        """Return the text with the mistake in it."""
        found = text.count(self.old)
        assert found == 1, f"{self}: {self.old!r} stands {found} times in {self.module}, expected once"
        return text.replace(self.old, self.new)


class _Patched(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds the one module that a mistake is planted in, where it always is."""

    def __init__(self, plant: Plant) -> None:
        self.plant, self.path = plant, ""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.plant.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert found is not None
        assert found.origin is not None
        self.path = found.origin
        return importlib.util.spec_from_loader(name, self)

    def get_filename(self, _name: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        return self.plant.source(Path(path).read_text(encoding="utf-8")).encode()

    def path_stats(self, _path: str) -> dict[str, int]:
        raise OSError("never from a compiled file")


@contextmanager
def planted(plant: Plant) -> Iterator[ModuleType]:
    """Give the adapter of the program with the mistake in it; the right one is back afterwards."""
    package = plant.module if plant.module.startswith("tests.") else plant.module.partition(".")[0]
    finder, right = _Patched(plant), _forget(package)
    sys.meta_path.insert(0, finder)
    try:
        yield load(HERE / f"{plant.adapter}.py")
    finally:
        sys.meta_path.remove(finder)
        _forget(package)
        sys.modules.update(right)


def _forget(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


@dataclass(frozen=True)
class Judged:
    """What is said of a program: which components are to blame, and what each wrong one looks like first."""

    guilty: list[str]
    told: dict[str, list[str]]

    def names(self, plant: Plant) -> bool:
        """Whether what is said first of the component at fault is true."""
        return bool({*plant.name.split("|")} & {*self.told.get(plant.component, [])})


class Judge:
    """Says what is new about programs with a mistake in them: of which component not the same is said as of the program
    as it is, which may have faults of its own.
    """

    def __init__(self, adapter: ModuleType) -> None:
        session = Session(adapter, Results(), driven=True)
        self.known = {name: _named(session, name) for name in INSIDE_OUT if _is_wrong(session, name, ANSWERS)}

    def judge(self, adapter: ModuleType) -> Judged:
        """Ask as a quick run does, from the inside out, up to the first component about which there is news: answers,
        and where they bring none, claims and gradients.
        """
        session, told = Session(adapter, Results(), driven=True), {}
        news: list[str] = []
        for section, component in product((ANSWERS, PROPERTIES, GRADIENTS), INSIDE_OUT):
            if not news and component not in told and _is_wrong(session, component, section):
                told[component] = _named(session, component)
                if told[component] != self.known.get(component):
                    news.append(component)
        if news and _over_a_cache_alone(session, news[0]) and _is_wrong(session, "kv_cache", ANSWERS):
            told["kv_cache"] = _named(session, "kv_cache")
            news.append("kv_cache")
        return Judged([name for name in summary.suspects(session.results) if name in news], told)


def _is_wrong(session: Session, component: str, section: str) -> bool:
    for item in items(component, quick=True):
        if item.section == section:
            session.ask(item)
            if summary.is_wrong(session.results, component):
                return True
    return False


def _named(session: Session, component: str) -> list[str]:
    """The first mistake that it looks like; of two at once, both."""
    found = session.diagnose(component).named
    return re.findall(r"`([^`]+)`", found[0].title) if found else []


def _over_a_cache_alone(session: Session, component: str) -> bool:
    wrong = {row.label for row in session.results.rows if row.component == component and not row.within}
    return wrong == {IN_CHUNKS}
