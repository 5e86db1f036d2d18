"""Checkpoints of any format, read as they say that they are to be read: transformers' names and layout come out.

Nothing is refused because it looks wrong: what is wrong is for the comparison to say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llama_reference.checkpoints import gguf_format, hf_format, llama2c_format, meta_format
from llama_reference.checkpoints.stored import Stored
from llama_reference.command_line import UsageError

__all__ = ["Stored", "opened"]


def opened(path: Path) -> Stored:
    """The checkpoint, without its tensors being read. Raises UsageError where nothing of the four formats is there."""
    reader = _reader(path)
    try:
        stored = reader(path)
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError(f"{path}: has no {error.args[0]}") from error
    except Exception as error:  # whatever is wrong with the files, each library has its own type for it
        raise UsageError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error

    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        if not isinstance(stored.fields[name], int) or stored.fields[name] < 1:
            raise UsageError(f"{path}: {name} is {stored.fields[name]!r}, expected a positive integer")
    return stored


def _reader(path: Path) -> Callable[[Path], Stored]:
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.is_dir():
        for name, read in (("config.json", hf_format.read), ("params.json", meta_format.read)):
            if (path / name).is_file():
                return read
        raise UsageError(f"{path}: holds neither config.json nor params.json")
    with path.open("rb") as file:
        return gguf_format.read if file.read(4) == b"GGUF" else llama2c_format.read
