"""List the known mistakes, what is done wrong and where it was seen: `llama-reference mistakes [NAME ...]`."""

from __future__ import annotations

import textwrap

from llama_reference import mistakes
from llama_reference.command_line import Parser
from llama_reference.mistakes import COMPONENTS


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = Parser(prog="llama-reference mistakes", description=__doc__)
    parser.add_argument("component", nargs="*", metavar="NAME", help="components (default: all)")
    names = parser.parse_args(arguments).component
    for name in names:
        if name not in COMPONENTS:
            parser.error(f"{name} is not a component, expected one of {', '.join(COMPONENTS)}")
    for name in names or COMPONENTS:
        known = mistakes.of(name)
        print(f"{name}: {len(known)} known mistakes")
        for mistake in known:
            text = f"{mistake.name}: {mistake.why} [seen: {mistake.seen}]"
            print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      "))
    return 0
