"""Judge a Llama component by component, against Hugging Face transformers and the equations in float64.

A first run: `llama-reference template > my_llama.py`, fill it in, `llama-reference check my_llama.py`.
"""

from __future__ import annotations

import os
import sys

from llama_reference.command_line import UsageError, parse
from llama_reference.commands import Command


def main(arguments: list[str] | None = None) -> int:
    """Run a command; one line on standard error and exit status 2 where it cannot be carried out."""
    try:
        try:
            return int(parse(Command, arguments, __doc__).main())
        finally:
            sys.stdout.flush()  # here, also after --help, which exits: at the very end nobody could handle it
    except BrokenPipeError:  # the reader has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UsageError, OSError) as error:
        if details := getattr(error, "details", ""):
            print(details, file=sys.stderr)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # where there is nothing yet to tell
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
