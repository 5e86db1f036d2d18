"""The known mistakes as a list to read: `llama-reference mistakes [NAME]`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from llama_reference import mistakes
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.conversions import CONVERSIONS, Conversion
from llama_reference.suite.plan import chosen

CONVERSION = "conversion"  # of weights, which no component makes


def listing(components: tuple[str, ...]) -> str:
    """The mistakes of components of those names, or of "conversion"; all where none is given. Raises UsageError."""
    asked = tuple(name for name in components if name != CONVERSION)
    lists: list[tuple[str, Sequence[Mistake | Conversion]]] = [
        (name, mistakes.of(name)) for name in chosen(asked) if asked or not components
    ]
    if CONVERSION in components or not components:
        lists.append((CONVERSION, CONVERSIONS))
    return "\n".join(line for name, known in lists for line in _lines(name, known))


def _lines(name: str, known: Sequence[Mistake | Conversion]) -> Iterator[str]:
    yield f"{name}: {len(known)} known mistakes"
    for mistake in known:
        text = f"{mistake.name}: {mistake.why} [seen: {mistake.seen}]"
        yield textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ")
