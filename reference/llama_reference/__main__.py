"""Judge a Llama, component by component, against Hugging Face transformers and the equations in float64.

  llama-reference template > my_adapter.py    an adapter to start from
  llama-reference check my_adapter.py         which component is wrong, and which mistake it looks like
  llama-reference verify DIR my_adapter.py    the same on a real checkpoint, layer by layer
  llama-reference mistakes [NAME ...]         the known mistakes

Each has --help. Also as `python -m llama_reference COMMAND`.
"""

from __future__ import annotations

import importlib
import sys

from llama_reference.command_line import UsageError, suggestion

# the module is imported when it is needed: some take seconds
MODULES = {"check": "check", "verify": "verify", "template": "template", "mistakes": "catalogue"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; one line on standard error and exit status 2 where it cannot be carried out."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name not in MODULES:
        known = f"expected one of {', '.join(MODULES)}"
        print(f"error: {name} is not a command, {known}{suggestion(name, list(MODULES))}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"llama_reference.{MODULES[name]}")
    try:
        return int(command.main(rest))
    except (UsageError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
