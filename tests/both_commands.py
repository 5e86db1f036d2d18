"""Judges adapters as `llama-reference check` does and as `pytest --implementation` does, in one process, so that what
transformers and the formula answer is worked out once: `python -m tests.both_commands JOBS.json`.

JOBS.json holds [adapter, [component, ...]] for each; a line on stdout says what differs, or that nothing does.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import llama_reference
from llama_reference.adapter_loader import load
from llama_reference.check import status
from llama_reference.report import terminal
from llama_reference.report.results import PROPERTIES, Results, about
from llama_reference.suite.runner import Plan
from llama_reference.suite.session import Session
from llama_reference.suite.worker import do


def checked(adapter: Path, components: list[str]) -> tuple[int, Results]:
    """Exit status and results of `check`, whose processes answer the tasks of a plan."""
    module = load(adapter)
    results = Results(about(adapter, getattr(module, "BITWISE", False)))
    session = Session(module, Results(), driven=True)
    plan, last = Plan(tuple(components), False, results), ""
    while (task := plan.next(last, busy=set())) is not None:
        last = task.component
        do(task, session)
        results.merge(Results.of(json.loads(json.dumps(session.results.values()))))
    return status(results), results


def tested(adapter: Path, components: list[str], folder: Path) -> tuple[int, Results]:
    """Exit status and results of pytest, run as somebody else runs it."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    suite = Path(llama_reference.__file__).parent
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(folder / "pytest.ini")]
    options += ["--confcutdir", str(suite)]  # or this project's conftest.py is found above it
    named = ["--implementation", str(adapter), "--report", str(folder / "report"), "--pyargs"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = int(pytest.main([*options, *named, *(f"llama_reference.suite.test_{name}" for name in components)]))
    report = folder / "report" / "report.json"
    assert report.is_file(), said.getvalue()
    return code, terminal.read(report)


def judged(adapter: Path, components: list[str]) -> list[str]:
    """Judge an adapter both ways, and list what differs."""
    with tempfile.TemporaryDirectory() as folder:
        return differences(checked(adapter, components), tested(adapter, components, Path(folder)))


def differences(by_check: tuple[int, Results], by_pytest: tuple[int, Results]) -> list[str]:
    """What the two say otherwise, a line each."""
    ones, others = view(*by_check), view(*by_pytest)
    differ = [key for key in ones if ones[key] != others[key]]
    return [f"{key}: check {_short(ones[key])}, pytest {_short(others[key])}" for key in differ]


def _short(value: object) -> str:
    return textwrap.shorten(str(value), 200, placeholder="...")


def view(code: int, results: Results) -> dict[str, Any]:
    """What both have to agree on.

    Names of tests are compared from the class on: the file's path differs. Of messages the first line is compared: the
    diagnosis is compared by itself, and stands in pytest's messages only, since `check` diagnoses last. Of a claim that
    does not hold the message is left out: hypothesis draws numbers from the source of the modules that are loaded too,
    and may refute it by another.
    """
    troubles = (
        (
            t.kind,
            t.component,
            t.section,
            t.where.partition("::")[2] or t.where,
            t.section != PROPERTIES and t.message.partition("\n")[0],
        )
        for t in results.troubles
    )
    return {
        "exit status": code,
        "about": {key: text for key, text in results.about.items() if key != "time"},
        "rows": Counter(results.rows),
        "properties": results.properties,
        "diagnoses": results.diagnoses,
        "troubles": Counter(troubles),
    }


def main(jobs: Path) -> int:
    """1 if anything differs."""
    torch.set_num_threads(1)
    code = 0
    for adapter, components in json.loads(jobs.read_text()):
        found = judged(Path(adapter).resolve(), components)
        code |= bool(found)
        print(f"{Path(adapter).name} {' '.join(components)}: {'; '.join(found) or 'the same'}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
