"""Two checkpoints of one model, of any formats: `llama-reference verify A --against B`.

A is taken to be right. The exit code is 0 where B holds the same model, 1 where it does not, and 2 where there is
nothing to compare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from llama_reference import checkpoints
from llama_reference.judge import conversion
from llama_reference.report import conversion as report
from llama_reference.report.files import write


def against(first: Path, second: Path, json_file: Path | None) -> int:
    """Print what differs and write the file; return the exit status. Raises UsageError."""
    one, other = checkpoints.opened(first), checkpoints.opened(second)
    found = conversion.compare(one, other, _shown)
    print(report.text(one, other, found))
    if json_file:
        write(json_file, json.dumps(report.values(one, other, found), indent=1, allow_nan=False) + "\n")
    return 0 if found.agrees else 1


def _shown(names: Iterable[str]) -> Iterable[str]:
    shown: Iterable[str] = tqdm(names, "tensors", disable=not sys.stderr.isatty(), leave=False, mininterval=1)
    return shown
