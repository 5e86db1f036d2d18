"""Judge a Llama through its adapter, component by component: `llama-reference check ADAPTER.py`.

Exit status: 0 everything judged is right, 1 something is wrong, 2 nothing, or not everything, could be judged: the
adapter cannot be run, something is in trouble, or the run was cut short.
"""

from __future__ import annotations

from pathlib import Path

from llama_reference.command_line import UsageError
from llama_reference.report import exports, suite_page, terminal
from llama_reference.report.files import write
from llama_reference.report.results import Results
from llama_reference.report.summary import is_nothing_judged, verdict, why_nothing, wrong
from llama_reference.standard.outcome import Outcome

RIGHT, WRONG, UNJUDGED = 0, 1, 2  # the exit statuses
WRITERS = {"json": terminal.as_json, "html": suite_page.render, "junit": exports.junit, "badge": exports.badge}


def tell(results: Results, adapter: object, verbose: bool, files: dict[str, Path | None]) -> int:
    """Print the table and write the files, which WRITERS name; return the exit status.

    Raises UsageError where nothing was judged.
    """
    print(terminal.table(results))
    if verbose:
        print(failures(results))
    for name, path in files.items():
        if path is not None:
            write(path, WRITERS[name](results))
            print(f"written: {path}")
    if is_nothing_judged(results) and not results.cut_short:
        raise UsageError(f"{adapter}: nothing was judged: {why_nothing(results)}")
    return status(results)


def status(results: Results) -> int:
    """The exit status that a run ends with."""
    if wrong(results) or any(trouble.kind == Outcome.BROKEN for trouble in results.troubles):
        return WRONG
    return RIGHT if verdict(results)[0] else UNJUDGED


def failures(results: Results) -> str:
    """Everything that did not simply pass, one paragraph each."""
    return "\n".join(f"\n{trouble.where}\n  {trouble.kind}: {trouble.message}" for trouble in results.troubles)
