"""An adapter, from the path of its file. What goes wrong in it is told by its own frames; its warnings end nothing."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from llama_reference.command_line import UsageError

INSTALLED = tuple({sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


class AdapterError(UsageError, ImportError):
    """An adapter that cannot be run; `details` is its traceback."""


def load(path: Path) -> ModuleType:
    """Load the file as a module; it need not be importable by name. It may import what stands in its own folder and in
    the working directory, but for names that are installed.

    Raises AdapterError, naming the file, when there is none or it cannot be run.
    """
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise AdapterError(f"{path}: no such Python file")
    sys.path += [str(folder) for folder in (path.parent, Path.cwd()) if str(folder) not in sys.path]
    module = importlib.util.module_from_spec(spec)
    try:
        with lenient_warnings():
            spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises, the message must name it
        raise AdapterError(f"{path}: {type(error).__name__}: {error}", frames(error, path)) from error
    return module


@contextmanager
def lenient_warnings() -> Iterator[None]:
    """Within it no warning is an error: a run under -W error is strict about its own code, not about an adapter's."""
    if not any(action == "error" for action, *_ in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def frames(error: BaseException, path: Path) -> str:
    """The traceback of an error from the adapter's first frame on, without the frames of installed packages but for the
    last, where it was raised; empty where the adapter has none in it.
    """
    entries = traceback.extract_tb(error.__traceback__)
    first = next((i for i, entry in enumerate(entries) if entry.filename == str(path)), len(entries))
    kept = [
        entry
        for entry in entries[first:]
        if entry is entries[-1] or not entry.filename.startswith((*INSTALLED, "<frozen"))
    ]
    return "".join(traceback.format_list(kept)).rstrip()
