"""Common parts of the command lines: an error is one line, `error: ...`; the exit status is 2 for a wrong command, and
1 if the command fails.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import tyro

from llama_scratch.errors import LlamaScratchError

Options = TypeVar("Options")
KINDS = {"INT": "a whole number", "FLOAT": "a number"}


@contextmanager
def one_line_errors(interrupted: str = "") -> Iterator[None]:
    """End the program with one line where it fails, and with `interrupted` and status 130 on Ctrl-C.

    A reader that has gone, as in `| head`, ends it without a word.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, also after --help, which exits: at the very end nobody could handle it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes once more, and complains
        raise SystemExit(1) from None
    except (LlamaScratchError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        raise SystemExit(130) from None


def parse(
    kind: type[Options],
    program: str,
    description: str | None,
    arguments: Sequence[str] | None = None,
    default: Options | None = None,
    config: Sequence[Any] = (),
) -> Options:
    """Parse flags into the dataclass. Exits with status 2 and one line if they are wrong, and with 0 after --help."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    output = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(output):
            return tyro.cli(kind, args=given, prog=program, description=description, config=tuple(config), **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        flags = [flag(field.name) for field in fields(kind)]  # type: ignore[arg-type]
        refuse(one_line(output.getvalue(), flags), program)


def one_line(box: str, flags: Iterable[str]) -> str:
    """Convert the first paragraph of tyro's box to this project's form."""
    rows = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for row in rows:
        if row.startswith(("──", "---")):
            paragraphs.append([])
        else:
            paragraphs[-1].append(row)
    title = 0 if "╭" in box else 1  # without a frame (output that is not UTF-8) the title is a row
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
        return f"{found[1]} has no value after it"
    if found := re.match(r"Missing from .*?: (\S+) (.*?) ?\(required\)", text):
        return f"{found[1]} is missing: {found[2].rstrip('.')}"
    return text


def unknown(given: str, flags: Iterable[str]) -> str:
    """Describe a word that is not a flag, with the flag that may have been meant."""
    name = given.split("=")[0]
    known = [*flags, *(flag.replace("--", "--no-", 1) for flag in flags)]
    if not given.startswith("-"):
        return f"{name} is one word too many"
    return f"{name} is an unknown flag{suggestion(name, known)}"


def suggestion(given: str, known: Iterable[str]) -> str:
    """Suggest what may have been meant, as the end of a message."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def refuse(message: str, program: str) -> NoReturn:
    """Print one line, and exit with status 2."""
    print(f"error: {message} ({program} --help lists all flags)", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """argparse with this project's form of an error."""

    def error(self, message: str) -> NoReturn:
        """Print one line, and exit with status 2."""
        refuse(message, self.prog)


def is_usable(device: str) -> bool:
    """Return True if torch can create a tensor on the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # unknown; or known, but not in this build of torch
        return False
    return True


def flag(name: str) -> str:
    """Name of a field on the command line."""
    return "--" + name.replace("_", "-")


def this_python() -> str:
    """Command that starts this Python from the current directory, in an environment that may not be activated."""
    python = Path(sys.executable)
    if shutil.which("python") == str(python):
        return "python"
    if python.is_relative_to(Path.cwd()):
        return shlex.quote(f"{python.relative_to(Path.cwd())}")
    return shlex.quote(str(python))
