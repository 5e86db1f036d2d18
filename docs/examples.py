"""The code blocks of README and docs, run: what a block prints must be what stands in the `output` block below it.

pytest runs every block (conftest.py). `.venv/bin/python -m docs.examples [PAGE ...]` runs those of docs/ and writes
what they print into the pages.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from sybil import Document, Example, Lexeme, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import PythonCodeBlockParser

from docs.commands import shell_blocks

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```output\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def printed(example: Example) -> str:
    """What the block prints."""
    with redirect_stdout(io.StringIO()) as out:
        PythonEvaluator()(example)
    return out.getvalue()


def check(example: Example) -> str | None:
    """None, or what is wrong with the block's output."""
    found = printed(example)
    stated = example.region.lexemes["output"]
    return None if found == stated else f"it prints\n{found}and the page says\n{stated or 'nothing'}"


def blocks(document: Document) -> Iterator[Region]:
    """Every Python block, with the output that the page states."""
    for match in BLOCK.finditer(document.text):
        region = Region(match.start(), match.end(), Lexeme(match["code"], 0, line_offset=0), check)
        region.lexemes["output"] = match["output"] or ""
        yield region


BOOK = Sybil(parsers=[blocks, shell_blocks], pattern="docs/*.md", path=str(ROOT), fixtures=["trained"])
README = Sybil(parsers=[PythonCodeBlockParser(), shell_blocks], patterns=["README.md", "CONTRIBUTING.md"],
               path=str(ROOT), fixtures=["trained"])  # fmt: skip


def rewrite(page: Path) -> int:
    """Puts what each block prints below it; returns how many blocks there are."""
    document = Document.parse(str(page), blocks)
    text = document.text
    moved = 0
    examples = list(document.examples())
    for example in examples:
        region, found = example.region, printed(example)
        block = f"```python\n{region.parsed}```\n" + (f"\n```output\n{found}```\n" if found else "")
        text = text[: region.start + moved] + block + text[region.end + moved :]
        moved += len(block) - (region.end - region.start)
    page.write_text(text)
    return len(examples)


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "docs").glob("*.md"))
    counted = {page.name: rewrite(page) for page in pages}
    print(f"{sum(counted.values())} code blocks ran: {', '.join(f'{name} {n}' for name, n in counted.items())}")
