"""Mistakes that nobody wrote down: members of families at numbers drawn by dice, and two known mistakes at once."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from llama_reference import mistakes
from llama_reference.judge.agreement import Evidence
from llama_reference.judge.fitting import telling
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.composition import both
from llama_reference.mistakes.families import FAMILIES
from llama_reference.mistakes.family import Family

SEED = 1  # of the weights that everything is asked with
# How often a component is drawn: the more a diagnosis of it costs, the more rarely.
SHARES = {"rms_norm": 6, "rotary": 8, "attention": 5, "swiglu": 5, "loss": 6, "sampling": 5, "block": 2, "llama": 1}
# Where a mistake in one component is asked through another.
NESTED = (("rotary", "attention"), ("rms_norm", "block"), ("swiglu", "block"))


def component(dice: random.Random) -> str:
    return dice.choices(list(SHARES), weights=list(SHARES.values()))[0]


def number(family: Family, dice: random.Random) -> float:
    """One that is no grid's, where the family has such, with three digits."""
    grid = family.numbers.grid
    if not family.numbers.between:
        return dice.choice(grid)
    i = dice.randrange(1, len(grid) - 2)
    share = dice.uniform(0.15, 0.85)
    low, high = grid[i], grid[i + 1]
    if family.numbers.between == "log":
        return float(f"{math.exp(math.log(low) * (1 - share) + math.log(high) * share):.3g}")
    return float(f"{low + (high - low) * share:.3g}")


def members(count: int) -> Iterator[Mistake]:
    """Members of families whose answers are wrong, and not those of any mistake of the catalogue."""
    dice = random.Random("families")
    drawn = 0
    while drawn < count:
        name = component(dice)
        family = dice.choice(FAMILIES[name])
        member = family.at(number(family, dice))
        evidence = Evidence(name, member.implementation, SEED)
        known = (form for known in mistakes.of(name) for form in known.forms)
        if telling(evidence) is not None and not evidence.surviving(known):
            drawn += 1
            yield member


def quick_members(components: tuple[str, ...], count: int) -> list[Mistake]:
    """As many of some components, without a look at whether the catalogue holds them."""
    dice = random.Random("quick")
    families = [dice.choice([f for f in FAMILIES[name] if f.numbers.between]) for name in components * count]
    return [family.at(number(family, dice)) for family in families[:count]]


def pairs(count: int) -> Iterator[tuple[str, Mistake]]:
    """The component to ask, and two mistakes at once, each of which shows: every second time in nested components."""
    dice = random.Random("pairs")
    drawn = 0
    while drawn < count:
        inner, outer = dice.choice(NESTED) if drawn % 2 else (component(dice),) * 2
        one = dice.choice(mistakes.of(inner))
        other = dice.choice(mistakes.of(outer))
        made = list(both(one, other)) if one != other else []
        evidence = Evidence(outer, made[0].implementation, SEED) if made else None
        if evidence is None or telling(evidence) is None:
            continue
        known = (form for known in {*mistakes.of(inner), *mistakes.of(outer)} for form in known.forms)
        if not evidence.surviving(known):
            drawn += 1
            yield outer, made[0]
