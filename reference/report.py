"""The Results of a run as a table for the terminal; with --report also report.json and one self-contained page."""

from __future__ import annotations

import json
from pathlib import Path

from reference.results import Results


def table(results: Results) -> str:
    lines = []
    for component in dict.fromkeys(row.component for row in results.rows):
        rows = [row for row in results.rows if row.component == component]
        lines.append(f"{component:<12}{len(rows)} {sum(r.within for r in rows)} {sum(r.bitwise for r in rows)}")
    return "\n".join(lines)


def write(results: Results, directory: Path) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "report.json"
    path.write_text(json.dumps(results.values()))
    return [path]
