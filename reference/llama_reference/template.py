"""Write a commented adapter to start from: `llama-reference template > my_adapter.py`."""

from __future__ import annotations

from importlib.resources import files

from llama_reference.command_line import Parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    Parser(prog="llama-reference template", description=__doc__).parse_args(arguments)
    print(files("llama_reference").joinpath("templates", "adapter.py").read_text(encoding="utf-8"), end="")
    return 0
