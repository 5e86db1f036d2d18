"""Hints for a path that is not a checkpoint: what it is, and what to do, in one line.

A name of the hub instead of a directory, a file instead of its directory, an adapter that was not merged, a .gguf that
was not converted, a git-lfs pointer instead of the file.
"""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path

from llama_scratch.checkpoint.files import CheckpointError, exists, size, unreadable
from llama_scratch.command_line import this_python

CONFIG, PARAMS = "config.json", "params.json"
ADAPTER = "adapter_config.json"
LFS = b"version https://git-lfs.github.com/spec/"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CONVERTIBLE = (".gguf", ".bin")
SHOWN = 6


def check_directory(directory: Path) -> None:
    """Raise CheckpointError, with a hint, unless the directory has a config.json."""
    if not exists(directory):
        raise CheckpointError(_nothing(directory))
    if not directory.is_dir():
        raise CheckpointError(_a_file(directory))
    if not exists(directory / CONFIG):
        raise CheckpointError(f"{directory / CONFIG} is missing: {what_is_there(directory)}")
    refuse_pointer(directory / CONFIG)


def _nothing(directory: Path) -> str:
    name = str(directory)
    if HUB_NAME.fullmatch(name) and not exists(directory.parent):
        hint = f"if it is a name of the Hugging Face hub: hf download {name} --local-dir {directory.name}"
        return f"{name} is not a directory here; {hint}, and give that directory"
    return f"{directory} is not a directory: there is nothing of that name"


def _a_file(path: Path) -> str:
    if path.suffix in CONVERTIBLE and not exists(path.parent / CONFIG):
        return f"{path} is a file, not a directory; convert it first: {_convert(path)}"
    return f"{path} is a file, not a directory, expected the directory that holds it: {path.parent}"


def _convert(path: Path) -> str:
    return f"{this_python()} -m llama_scratch.convert {shlex.quote(str(path))} NEW_DIRECTORY"


def what_is_there(directory: Path) -> str:
    """Describe what a directory contains instead of a checkpoint, and what to do."""
    names = names_in(directory)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if not names:
        return f"{directory} is empty, expected {CONFIG} and weights"
    if ADAPTER in names or any(name.startswith("adapter_model") for name in names):
        return adapter(directory)
    if ggufs:
        return f"{directory} holds {listed(ggufs)}; convert it first: {_convert(directory / ggufs[0])}"
    if PARAMS in names:
        return f"{directory} holds {PARAMS}, Meta's format; convert it first: {_convert(directory)}"
    inside = [p.name for p in sorted(directory.iterdir()) if p.is_dir() and exists(p / CONFIG)]
    if inside:
        return f"{directory} holds {listed(names)}; a checkpoint is in {directory / inside[-1]}"
    return f"{directory} holds {listed(names)}"


def adapter(directory: Path) -> str:
    """Describe what to do with a LoRA, which only has changes to another model."""
    base = "another model"
    with suppress(OSError, ValueError, KeyError, TypeError):  # the name is optional
        base = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    merge = f"AutoPeftModelForCausalLM.from_pretrained({str(directory)!r}).merge_and_unload().save_pretrained('merged')"
    return f"{directory} holds an adapter (LoRA) of {base}, not a model; merge the two first, with peft: {merge}"


def names_in(directory: Path) -> list[str]:
    """List the names in a directory, without hidden ones. Raises CheckpointError."""
    try:
        return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(directory, error) from None


def listed(names: list[str]) -> str:
    """Join the first few names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError for a git-lfs pointer in place of the file."""
    if not path.is_file() or size(path) > 1024:
        return
    try:
        start = path.read_bytes()[: len(LFS)]
    except OSError as error:
        raise unreadable(path, error) from None
    if start == LFS:
        where = shlex.quote(str(path.parent))
        raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself: run git lfs pull in {where}")
