"""Judges a mutation run: `python tests/survivors.py`, after `mutmut run`.

Every mutant that no test kills must stand in tests/SURVIVORS.md, with the reason why it is no different from the
original; the score is the share of all other mutants that were killed. Exit code 1 when a survivor has no reason or a
reason no survivor.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

SURVIVORS = Path(__file__).parent / "SURVIVORS.md"
KILLED = ("killed", "timeout", "segfault", "caught by type check")
Change = tuple[str, str, str]  # file, the line as it is, the line of the mutant


def mutmut(*arguments: str) -> str:
    line = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def statuses() -> dict[str, str]:
    """The name of every mutant -> what became of it."""
    return dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))


def change(mutant: str) -> Change:
    """What the mutant changes; names are numbers that move with every edit, so it is known by its lines."""
    diff = mutmut("show", mutant).splitlines()
    before, after = (
        " ".join(line[1:].strip() for line in diff if re.match(rf"\{sign}(?!\{sign}\{sign})", line)) for sign in "-+"
    )
    module, _, _ = mutant.rpartition(".")  # llama_scratch.model.loss.x_next_token_loss__mutmut_1
    return module.rpartition(".")[2] + ".py", before, after


def explained() -> set[Change]:
    """The rows of the table in SURVIVORS.md: file | original | mutant | reason."""
    rows = re.findall(r"^\| (\S+\.py) \| `(.*)` \| `(.*)` \| (.+) \|$", SURVIVORS.read_text(), re.MULTILINE)
    return {(file, before.replace(r"\|", "|"), after.replace(r"\|", "|")) for file, before, after, _ in rows}


def main() -> int:
    found = statuses()
    alive = {change(mutant): mutant for mutant, status in found.items() if status not in KILLED}
    reasons = explained()
    unexplained = [about for about in alive if about not in reasons]
    counted = len(found) - len(alive) + len(unexplained)
    killed = len(found) - len(alive)
    print(f"{len(found)} mutants: {dict(Counter(found.values()))}")
    for about in unexplained:
        print(f"survives without a reason: {alive[about]}: {' | '.join(about)}")
    for about in sorted(reasons - alive.keys()):
        print(f"explained, but no survivor: {' | '.join(about)}")
    print(f"killed {killed} of {counted} that are not equivalent: {killed / counted:.1%}")
    return bool(unexplained or reasons - alive.keys())


if __name__ == "__main__":
    sys.exit(main())
