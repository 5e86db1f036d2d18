"""A mistake planted in the source of src/llama_scratch: one piece of text replaced, the package imported anew."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import llama_scratch
from llama_reference import adapter_loader

PACKAGE = Path(llama_scratch.__file__).parent
ADAPTER = Path(__file__).parents[1] / "adapters" / "ours.py"


@dataclass(frozen=True)
class Plant:
    """`old`, which stands once in the file, becomes `new`. `name` is the catalogue's; several are as true where a |
    stands between them, and the empty one says that the catalogue has none. `truth` says in words what is wrong.
    """

    component: str
    name: str
    file: str
    old: str
    new: str
    truth: str = ""

    def source(self) -> str:
        """Return the file's text with the mistake in it."""
        text = (PACKAGE / self.file).read_text(encoding="utf-8")
        found = text.count(self.old)
        assert found == 1, f"{self.name}: {self.old!r} stands {found} times in {self.file}, expected once"
        return text.replace(self.old, self.new)

    @property
    def module(self) -> str:
        """The dotted name of the file."""
        return ".".join(["llama_scratch", *Path(self.file).with_suffix("").parts])


class _Patched(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds the one module that a mistake is planted in."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = name == self.plant.module
        return importlib.util.spec_from_loader(name, self) if found else None

    def get_filename(self, _name: str) -> str:
        return str(PACKAGE / self.plant.file)

    def get_data(self, _path: str) -> bytes:
        return self.plant.source().encode()

    def path_stats(self, _path: str) -> dict[str, int]:
        raise OSError("never from a compiled file")


@contextmanager
def planted(plant: Plant) -> Iterator[ModuleType]:
    """Give the adapter of a llama_scratch with the mistake in it; the right one is back afterwards."""
    finders, right = sys.meta_path[:], _forget()
    # as it is outside pytest, whose hook checks the types and shapes of every call
    sys.meta_path[:] = [_Patched(plant), *(f for f in finders if not type(f).__module__.startswith("jaxtyping"))]
    try:
        yield adapter_loader.load(ADAPTER)
    finally:
        sys.meta_path[:] = finders
        _forget()
        sys.modules.update(right)


def _forget() -> dict[str, ModuleType]:
    """Take llama_scratch's modules out of sys.modules."""
    names = [name for name in sys.modules if name.partition(".")[0] == "llama_scratch"]
    return {name: sys.modules.pop(name) for name in names}
