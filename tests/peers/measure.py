"""How many planted mistakes are caught, how many named: python -m tests.peers.measure ADAPTER [PART OF A NAME]

Prints a line for each. A package's mistakes need the package: README.md.
"""

from __future__ import annotations

import sys
import time

import torch

from llama_reference.adapter_loader import load
from tests.peers import plants
from tests.peers.planting import HERE, Judge, planted


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    adapter, *parts = arguments
    judge = Judge(load(HERE / f"{adapter}.py"))
    chosen = [one for one in plants.ALL if one.adapter == adapter and all(part in str(one) for part in parts)]
    counts = [0, 0, 0]
    for plant in chosen:
        before = time.process_time()
        with planted(plant) as program:
            found = judge.judge(program)
        right = bool(found.guilty), found.guilty == [plant.component], found.names(plant)
        counts = [count + each for count, each in zip(counts, right, strict=True)]
        took = time.process_time() - before
        said = f"{plant}: guilty {found.guilty}, told {found.told} ({took:.0f} s)"
        print("" if all(right) else "MISSED", said, flush=True)
    of = "caught, {} blamed rightly, {} named first".format(*counts[1:])
    print(f"{adapter}: {len(chosen)} planted, {counts[0]} {of}, {time.process_time():.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
