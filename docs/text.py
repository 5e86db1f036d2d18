"""The text of the book's examples: the language reference that ships with Python, one document a topic."""

from pydoc_data.topics import topics


def documents() -> list[str]:
    """In the order of their names; about 0.4 MB, not the same in every release of Python."""
    return [topics[name] for name in sorted(topics)]
