"""What the command lines have in common: one line for an error, `error: ...`; exit status 2 where the command itself is
wrong, 1 where what it was to do failed.
"""

from __future__ import annotations

import argparse
import difflib
import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import tyro

Options = TypeVar("Options")
KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def parse(
    kind: type[Options],
    program: str,
    description: str | None,
    arguments: Sequence[str] | None = None,
    default: Options | None = None,
    config: Sequence[Any] = (),
) -> Options:
    """The dataclass from its flags. Exits with status 2 and one line where they are wrong, with 0 behind --help."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    said = io.StringIO()
    how: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=given, prog=program, description=description, config=tuple(config), **how)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        flags = [flag(field.name) for field in fields(kind)]  # type: ignore[arg-type]
        refuse(one_line(said.getvalue(), flags), program)


def one_line(box: str, flags: Iterable[str]) -> str:
    """The first paragraph of tyro's box, in the words of this project."""
    rows = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for row in rows:
        if row.startswith(("──", "---")):
            paragraphs.append([])
        else:
            paragraphs[-1].append(row)
    title = 0 if "╭" in box else 1  # without a frame, where output is not UTF-8, the title is a row
    text = " ".join(" ".join(paragraphs[title]).split())
    text = re.sub(r"^Error parsing [A-Z]\w+: ", "", text)
    if found := re.match(r"Unrecognized options: (.*)", text):
        return unknown(found[1].split(", ")[0], flags)
    if found := re.match(r"Error parsing (--\S+): no type matching (\w+) could be .* from \['(.*?)'\]", text):
        return f"{found[1]} is {found[3]!r}, expected {KINDS.get(found[2], found[2])}"
    if found := re.match(r"Error parsing (--\S+): could not convert string to float: (.*)", text):
        return f"{found[1]} is {found[2]}, expected a number"
    if found := re.match(r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)", text):
        return f"{found[1]} is {found[2]}, expected a whole number"
    if found := re.match(r"invalid choice '(.*)' for argument '(--[\w-]+).*'\. Expected one of \((.*)\)", text):
        choices = sorted(set(re.findall(r"'(.*?)'", found[3])) - {"None"})
        return f"{found[2]} is {found[1]!r}, expected one of {', '.join(choices)}{suggestion(found[1], choices)}"
    if found := re.match(r"Missing value for argument '(--[\w-]+)", text):
        return f"{found[1]} has no value behind it"
    if found := re.match(r"Missing from .*?: (\S+) (.*?) ?\(required\)", text):
        return f"{found[1]} is missing: {found[2].rstrip('.')}"
    return text


def unknown(given: str, flags: Iterable[str]) -> str:
    """A word that is no flag, with the flag that may have been meant."""
    name = given.split("=")[0]
    known = [*flags, *(flag.replace("--", "--no-", 1) for flag in flags)]
    what = "an unknown flag" if given.startswith("-") else "one word too many"
    return f"{name} is {what}{suggestion(name, known) if given.startswith('-') else ''}"


def suggestion(given: str, known: Iterable[str]) -> str:
    """What may have been meant, to be put behind a message."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def refuse(message: str, program: str) -> NoReturn:
    """One line, and status 2."""
    print(f"error: {message} ({program} --help tells all)", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """argparse, with this project's line for what is wrong."""

    def error(self, message: str) -> NoReturn:
        """One line, and status 2."""
        refuse(message, self.prog)


def is_usable(device: str) -> bool:
    """Whether torch can put a tensor there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # unknown; or known, but not in this build of torch
        return False
    return True


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return "--" + name.replace("_", "-")


def this_python() -> str:
    """What starts this Python from the current directory: an environment may not be activated."""
    python = Path(sys.executable)
    if shutil.which("python") == str(python):
        return "python"
    if python.is_relative_to(Path.cwd()):
        return shlex.quote(f"{python.relative_to(Path.cwd())}")
    return shlex.quote(str(python))
