"""The Results of a run as a table for the terminal; with --report also report.json and one self-contained page.

`python -m llama_reference.report REPORT.json PAGE.md` puts the table between the two marks in the page: docs/how_we_know.md.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

from llama_reference.mistakes import COMPONENTS
from llama_reference.report import notes, suite_page, summary
from llama_reference.report.files import write as write_file
from llama_reference.report.results import Results

SCHEMA = 1  # of report.json; another number where what it says cannot be read as before
WIDTH = 100
BEGIN, END = "<!-- the table of a run: make report -->", "<!-- until here -->"


def table(results: Results) -> str:
    """The verdict, a row for every component that was asked, and below it what a reader needs to go on."""
    said = [*notes.on_failures(results), *notes.on_gaps(results), *notes.on_numbers(results)]
    lines = [*_wrapped(summary.verdict(results)[1]), "", *_grid(results), "" if said else None]
    previous = None
    for about, text in said:
        head = f"{about}: " if about and about != previous else "  " if about else ""
        lines += _wrapped(head + text)
        previous = about
    return "\n".join(line for line in lines if line is not None)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _grid(results: Results) -> list[str]:
    """Columns as wide as their cells, and none for a section of which there is nothing."""
    about = summary.asked(results)
    body = [[name, *(cell.text for cell in summary.cells(results, name))] for name in about]
    above, below = zip(*(heading.rpartition(" ")[::2] for heading in summary.HEADINGS), strict=True)
    columns = [
        column for column in zip(above, below, *body, strict=True) if any(text not in ("", "–") for text in column[2:])
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in zip(*columns, strict=True)]
    return lines if lines[0] else lines[1:]


def write(results: Results, directory: Path) -> list[Path]:
    """report.json and index.html, in a directory that is made when it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    values, page = directory / "report.json", directory / "index.html"
    write_file(values, json.dumps({"schema": SCHEMA, **results.values()}, indent=1, allow_nan=False) + "\n")
    write_file(page, suite_page.render(results))
    return [values, page]


def read(path: Path) -> Results:
    """The inverse. Raises ValueError where the file is no such report."""
    values = json.loads(path.read_text(encoding="utf-8"))
    found = values.pop("schema", None) if isinstance(values, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path}: schema {found}, expected {SCHEMA}: write it anew, with --report")
    return Results.of(values)


def block(results: Results) -> str:
    """What stands between the marks in the page."""
    about, known = results.about, sum(map(len, results.kills.values()))
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
    results, text = read(source), page.read_text(encoding="utf-8")
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
