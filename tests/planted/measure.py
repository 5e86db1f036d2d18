"""How many planted mistakes are caught, and how many named first.

.venv/bin/python -m tests.planted.measure [unseen] [COMPONENT ...] prints those that are not caught or not named,
and what is said of them instead.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from llama_reference.judge import description, diagnosis, localization
from tests.planted.catalogued import CATALOGUED
from tests.planted.plant import Plant, planted
from tests.planted.unseen import UNSEEN


@dataclass(frozen=True)
class Result:
    """What became of one plant."""

    guilty: list[str]
    named: list[str]
    described: str = ""
    """What is said where nothing is named."""

    @property
    def is_caught(self) -> bool:
        return bool(self.guilty)

    def names(self, plant: Plant) -> bool:
        """Whether the first name is a true one."""
        return bool(self.named) and self.named[0] in plant.name.split("|")


def judge(plant: Plant) -> Result:
    """Ask the patched package all that it takes to find a culprit, and then what the culprit looks like."""
    with planted(plant) as implementation:
        guilty = list(dict.fromkeys(finding.name for finding in localization.localize_by_suite(implementation)))
        found = [likeness for name in guilty for likeness in diagnosis.looks_like(name, implementation)]
        described = "" if found else "; ".join(description.describe(name, implementation) for name in guilty)
        return Result(guilty, [likeness.mistake.name for likeness in found], described)


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    plants = UNSEEN if "unseen" in arguments else CATALOGUED
    components = [name for name in arguments if name != "unseen"]
    chosen = [plant for plant in plants if not components or plant.component in components]
    caught = named = 0
    for plant in chosen:
        before = time.process_time()
        result = judge(plant)
        caught += result.is_caught
        named += result.names(plant)
        if not result.names(plant):
            took = time.process_time() - before
            said = result.named[:3] or result.described or "nothing"
            print(f"{plant.component}-{plant.name}: guilty {result.guilty}, said {said} ({took:.1f} s)"
                  f"\n    {plant.truth} {plant.file}: {plant.new!r}", flush=True)  # fmt: skip
    print(f"{len(chosen)} planted, {caught} caught, {named} named first, {time.process_time():.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
