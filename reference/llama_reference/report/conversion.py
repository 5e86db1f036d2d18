"""What `llama-reference verify A --against B` found out: as text for a terminal, and as values for a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llama_reference.checkpoints.stored import Stored
from llama_reference.judge.conversion import Comparison, Difference
from llama_reference.mistakes.conversions import CONVERSIONS

LISTED = 20  # differences that no mistake explains


def text(one: Stored, other: Stored, found: Comparison) -> str:
    lines = [f"first: {described(one)}", f"second: {described(other)}", f"compared: {found.compared} tensors", ""]
    for name, where in found.known.items():
        mistake = next(mistake for mistake in CONVERSIONS if mistake.name == name)
        lines.append(f"known mistake: `{name}`: {mistake.why} [seen: {mistake.seen}]")
        lines += [f"    {line}" for line in _first_of(where, found)]
    unknown = [each for each in found.differences if not each.known]
    if unknown:
        lines.append("explained by no known mistake:")
        lines += [f"    {spoken(each)}" for each in unknown[:LISTED]]
        lines += [f"    and {len(unknown) - LISTED} more"] if len(unknown) > LISTED else []
    lines += [f"remark: {remark}" for remark in found.remarks]
    return "\n".join([*lines, f"verdict: {verdict(found)}"])


def described(stored: Stored) -> str:
    kinds = sorted({weight.kind for weight in stored.weights.values()})
    return f"{stored.path} ({stored.format}, {', '.join(kinds)})"


def _first_of(where: list[str], found: Comparison) -> list[str]:
    """The first of the fields and tensors that a mistake explains, and how many more."""
    by_name = {each.name: each for each in found.differences}
    lines = [spoken(by_name[where[0]])]
    return [*lines, f"and {len(where) - 1} more, the last {where[-1]}"] if len(where) > 1 else lines


def spoken(each: Difference) -> str:
    others = f"; or {', '.join(each.known[1:3])}" if len(each.known) > 1 else ""
    return f"{each.name}: {each.told}{others}"


def verdict(found: Comparison) -> str:
    if found.agrees:
        return "the same model: every tensor of the second is the first's, up to how it is stored"
    fields = sum(each.what == "field" for each in found.differences)
    counts = ((len(found.differences) - fields, "tensor"), (fields, "field"))
    told = " and ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts if count)
    return f"NOT the same model: {told} differ{'s' * (len(found.differences) == 1)}"


def values(one: Stored, other: Stored, found: Comparison) -> dict[str, Any]:
    """Everything, ready for JSON."""
    about = {"first": described(one), "second": described(other), "agrees": found.agrees, "verdict": verdict(found)}
    return {**about, "known": found.known, **asdict(found)}
