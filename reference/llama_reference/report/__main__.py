"""Put the table of a run between the two marks in a page: python -m llama_reference.report REPORT.json PAGE.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llama_reference.mistakes import COMPONENTS
from llama_reference.report import summary
from llama_reference.report.files import write as write_file
from llama_reference.report.results import Results
from llama_reference.report.terminal import read, table

BEGIN, END = "<!-- the table of a run: make report -->", "<!-- until here -->"


def block(results: Results) -> str:
    """The text between the marks of the page."""
    about = results.about
    known = sum(map(len, results.kills.values()))
    versions = f"torch {about['torch']} and transformers {about['transformers']}".replace("+cpu", "")
    note = f"""*(Numbers are answers compared, with {versions} on a CPU, in float32, bfloat16
and float16: within budget of the float64 formula, and equal to transformers in every bit. {known} known mistakes are
planted one at a time, and each is rejected.)*"""
    return f"```\n{table(results)}\n```\n\n{note}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    source, page = map(Path, arguments)
    results = read(source)
    text = page.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    survivors = [name for kills in results.kills.values() for name, sections in kills.items() if not sections]
    if results.kills.keys() != set(COMPONENTS) or survivors or not summary.verdict(results)[0]:
        print(f"error: {source}: no green run of the whole suite; {page} is left as it is", file=sys.stderr)
        return 1
    if not marked.search(text):
        print(f"error: {page}: the marks {BEGIN} and {END} are not in it", file=sys.stderr)
        return 2
    write_file(page, marked.sub(lambda _: f"{BEGIN}\n{block(results)}\n{END}", text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
