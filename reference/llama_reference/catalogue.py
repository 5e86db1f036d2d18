"""The known mistakes as a list to read: `llama-reference mistakes [NAME]`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from llama_reference import mistakes
from llama_reference.suite.plan import chosen


def listing(components: tuple[str, ...]) -> str:
    """The mistakes of components of those names, all where none is given. Raises UsageError."""
    return "\n".join(line for name in chosen(components) for line in _of(name))


def _of(component: str) -> Iterator[str]:
    known = mistakes.of(component)
    yield f"{component}: {len(known)} known mistakes"
    for mistake in known:
        text = f"{mistake.name}: {mistake.why} [seen: {mistake.seen}]"
        yield textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="      ")
