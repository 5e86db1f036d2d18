"""An adapter, from the path of its file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: Path) -> ModuleType:
    """Load the file as a module; it need not be importable by name.

    Raises ImportError, naming the file, when there is none or it cannot be run.
    """
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises, the message must name it
        raise ImportError(f"{path}: {type(error).__name__}: {error}") from error
    return module
