"""The command line, as `llama-reference` and as `python -m llama_reference`."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from llama_reference.catalogue import Mistakes
from llama_reference.check import Check, UsageError
from llama_reference.template import Template

Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Template, tyro.conf.subcommand("template")]
    | Annotated[Mistakes, tyro.conf.subcommand("mistakes")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; one line on standard error and exit status 2 where it cannot be carried out."""
    command = tyro.cli(Command, args=arguments, prog="llama-reference", description=__doc__)
    try:
        return int(command.main())
    except (UsageError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
