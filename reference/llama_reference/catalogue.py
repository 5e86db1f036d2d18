"""List the known mistakes: `llama-reference mistakes [NAME]`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import tyro

from llama_reference import mistakes
from llama_reference.suite.plan import chosen


@dataclass(frozen=True)
class Mistakes:
    """List the known mistakes: what is done wrong, and where it was seen."""

    component: tyro.conf.Positional[tuple[str, ...]] = ()
    """Components (default: all)."""

    def main(self) -> int:
        """Run the command, and return its exit status."""
        for name in chosen(self.component):
            known = mistakes.of(name)
            print(f"{name}: {len(known)} known mistakes")
            for mistake in known:
                text = f"{mistake.name}: {mistake.why} [seen: {mistake.seen}]"
                print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      "))
        return 0
