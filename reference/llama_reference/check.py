"""Judge a Llama through its adapter, component by component: `llama-reference check ADAPTER.py`.

Exit status: 0 everything judged is right, 1 something is wrong, 2 nothing was judged.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llama_reference.command_line import Parser, UsageError, check_writable
from llama_reference.mistakes import COMPONENTS
from llama_reference.report import exports, suite_page, terminal
from llama_reference.report.files import write
from llama_reference.report.results import (
    Results,
)
from llama_reference.report.summary import asked, is_judged, verdict
from llama_reference.standard.outcome import Outcome
from llama_reference.suite.plan import chosen
from llama_reference.suite.runner import AdapterError, run

CORES = os.cpu_count() or 1
WRITERS = {"json": terminal.as_json, "html": suite_page.render, "junit": exports.junit, "badge": exports.badge}


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="llama-reference check", description=__doc__)
    say = parser.add_argument
    say(
        "adapter",
        type=Path,
        metavar="ADAPTER.py",
        help="a file as `llama-reference template` prints one",
    )
    say(
        "--component",
        nargs="+",
        default=(),
        choices=COMPONENTS,
        metavar="NAME",
        help="what to judge (default: all)",
    )
    say("--quick", action="store_true", help="every variant in float32, the hard one in all dtypes, few gradients")
    say(
        "--processes",
        type=int,
        default=CORES,
        metavar="N",
        help="components at once (default: one a core)",
    )
    say("-v", "--verbose", action="store_true", help="list every failure after the table")
    say("--json", type=Path, metavar="FILE", help="write every answer and verdict")
    say("--html", type=Path, metavar="FILE", help="write one self-contained page")
    say("--junit", type=Path, metavar="FILE", help="write the verdicts as JUnit XML")
    say("--badge", type=Path, metavar="FILE", help="write an endpoint badge for shields.io")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status. Raises UsageError."""
    options = read_options(arguments)
    if not options.adapter.is_file():
        raise UsageError(f"{options.adapter}: no such file; `llama-reference template` writes one to start from")
    if options.processes < 1:
        raise UsageError(f"--processes is {options.processes}, expected 1 or more")
    for name in WRITERS:
        check_writable(f"--{name}", getattr(options, name))
    components = chosen(tuple(options.component))
    try:
        results = run(options.adapter, components, options.quick, options.processes, sys.stderr.isatty())
    except AdapterError as error:
        raise UsageError(str(error)) from None
    print(terminal.table(results))
    if options.verbose:
        print(failures(results))
    for name, render in WRITERS.items():
        path: Path | None = getattr(options, name)
        if path is not None:
            write(path, render(results))
            print(f"written: {path}")
    return status(results)


def status(results: Results) -> int:
    """The exit status that a run ends with."""
    judged = [name for name in asked(results) if is_judged(results, name)]
    broken = any(trouble.kind != Outcome.NOT_OFFERED for trouble in results.troubles)
    if not judged and not broken:
        return 2
    return 0 if verdict(results)[0] else 1


def failures(results: Results) -> str:
    """Everything that did not simply pass, one paragraph each."""
    return "\n".join(f"\n{trouble.where}\n  {trouble.kind}: {trouble.message}" for trouble in results.troubles)
