"""What the commands have in common: one line for an error, `error: ...`, and exit status 2 where nothing was judged."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import NoReturn


class UsageError(Exception):
    """A request that cannot be carried out; the message names the flag or the file."""


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error and a suggestion for a mistyped flag."""

    def error(self, message: str) -> NoReturn:
        """Print the line, and exit with status 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        word = message.removeprefix("unrecognized arguments: ").split()[0] if message else ""
        hint = suggestion(word.split("=")[0], flags) if word.startswith("-") else ""
        self.exit(2, f"error: {message}{hint} ({self.prog} --help lists all)\n")


def suggestion(given: str, known: list[str]) -> str:
    """What may have been meant, to be appended to a message."""
    near = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def check_writable(flag: str, path: Path | None) -> None:
    """Raise UsageError, before the work rather than after it, unless a file can be put there."""
    if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
        raise UsageError(f"{flag}: {path}: not a file in an existing directory")
