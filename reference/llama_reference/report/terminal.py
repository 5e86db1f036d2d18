"""The Results of a run as a table for the terminal; with --report also report.json and one self-contained page."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from llama_reference.report import notes, suite_page, summary
from llama_reference.report.files import write as write_file
from llama_reference.report.results import Results

SCHEMA = 2  # of report.json; another number where what it says cannot be read as before
WIDTH = 100


def table(results: Results) -> str:
    """The verdict, a row for every component that was asked, and below it what a reader needs to go on."""
    said = [
        *notes.on_trouble(results),
        *notes.on_failures(results),
        *notes.on_gaps(results),
        *notes.on_numbers(results),
    ]
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
    values = directory / "report.json"
    page = directory / "index.html"
    write_file(values, as_json(results))
    write_file(page, suite_page.render(results))
    return [values, page]


def as_json(results: Results) -> str:
    """The text of report.json."""
    return json.dumps({"schema": SCHEMA, **results.values()}, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Results:
    """Read report.json. Raises ValueError if the file is not such a report."""
    values = json.loads(path.read_text(encoding="utf-8"))
    found = values.pop("schema", None) if isinstance(values, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path}: schema {found}, expected {SCHEMA}: write it anew, with --report")
    return Results.of(values)
