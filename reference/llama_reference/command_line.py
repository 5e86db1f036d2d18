"""What the commands have in common: one line for an error, `error: ...`, and exit status 2."""

from __future__ import annotations

import difflib
import io
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import tyro

PROGRAM = "llama-reference"
PLAIN = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)  # no {None} and no --no-FLAG in the help


class UsageError(Exception):
    """A request that cannot be carried out; the message names the flag or the file, `details` go above it."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def parse(commands: Any, arguments: list[str] | None, description: str | None) -> Any:
    """Return the command that the arguments name. Exits with status 2 and one line if they are wrong."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(commands, args=arguments, prog=PROGRAM, description=description, config=PLAIN)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        given = sys.argv[1:] if arguments is None else arguments
        print(f"error: {one_line(said.getvalue(), given)}", file=sys.stderr)
        raise SystemExit(2) from None


def one_line(box: str, given: list[str]) -> str:
    """The first paragraph of tyro's box as a line, with what may have been meant in place of its help."""
    rows = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for row in rows:
        if row.startswith(("──", "---")):
            paragraphs.append([])
        else:
            paragraphs[-1].append(row)
    title = 0 if "╭" in box else 1  # without a frame, where output is not UTF-8, the title is a row
    text = " ".join(paragraphs[title]).strip()
    if subcommands := re.search(r"Available subcommands: (.*?)(?: ──| ---|$)", " ".join(rows)):
        names = subcommands[1].replace(",", " ").split()
        return f"{given[0]} is not a command, expected one of {', '.join(names)}{suggestion(given[0], names)}"
    if found := re.match(r"Unrecognized options: (.*)", text):
        return unrecognized(found[1].split(",")[0].strip(), set(re.findall(r"--[\w-]+", " ".join(rows))))
    if found := re.match(r"Missing from .*?: (\S+) (.*?) ?\(required\)", text):
        return f"{found[1]} is missing: {found[2].rstrip('.')}"
    return text.rstrip(".")


def unrecognized(word: str, flags: Iterable[str]) -> str:
    """An argument that means nothing, with the flag that may have been meant."""
    if not word.startswith("-"):
        return f"{word} is one argument too many"
    name = word.partition("=")[0]
    return f"{name} is not a flag{suggestion(name, set(flags) - {'--help', name})}"


def suggestion(given: str, known: Iterable[str]) -> str:
    """What may have been meant, to be put after a message."""
    near = difflib.get_close_matches(given, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def check_output_file(flag: str, path: Path | None) -> None:
    """Raise UsageError before the work if a file cannot be written there."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise UsageError(f"{flag} {path}: expected a file in a directory that exists")
