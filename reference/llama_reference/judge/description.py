"""What can be said of wrong answers that no known mistake gives: where they are wrong, how, and what they depend on.

Every statement is measured. "Wrong only ..." names bounds outside which all that was asked is within budget.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_reference.implementation import Implementation
from llama_reference.judge.agreement import Evidence, comparable, distances
from llama_reference.judge.comparison import reference_answers
from llama_reference.judge.dependence import branches, dependence
from llama_reference.questions.checks import rotary
from llama_reference.standard import budget
from llama_reference.standard.cases import Case
from llama_reference.standard.profile import FULL, Profile

MANY = 3  # more are not listed one by one
# The axes of an answer, the last ones first, by component. Rows of a batch are b, positions t.
AXES = {
    "rms_norm": ("channels", "positions", "rows"),
    "rotary": ("channels", "positions", "heads", "rows"),
    "attention": ("channels", "positions", "rows"),
    "swiglu": ("channels", "positions", "rows"),
    "block": ("channels", "positions", "rows"),
    "llama": ("tokens", "positions", "rows"),
    "sampling": ("tokens", "rows"),
    "generate": ("positions", "rows"),
}


@dataclass(frozen=True)
class Judged:
    """One answer to one question, and which of its entries are wrong: True or False, by the component's axes."""

    case: Case
    label: str
    answer: Tensor
    exact: Tensor
    allowed: float
    wrong: Tensor
    worst: float

    @property
    def is_wrong(self) -> bool:
        return bool(self.wrong.any())

    @property
    def is_beyond_doubt(self) -> bool:
        """So that no luck of transformers explains it."""
        return self.worst > budget.DOUBTFUL * self.allowed


def describe(component: str, implementation: Implementation, seed: int = 0, profile: Profile = FULL) -> str:
    """One or two sentences about wrong answers; empty where nothing is wrong, or nothing can be said."""
    evidence = Evidence(component, implementation, seed, profile)
    judged = list(_judged(evidence))
    wrong = [each for each in judged if each.is_wrong]
    if not any(each.is_beyond_doubt for each in wrong):
        return "" if judged else _broken(evidence)
    bounds = [*_inputs(judged, wrong), *_entries(component, wrong)]
    sentences = ["wrong only " + ", ".join(bounds)] if bounds else []
    sentences += filter(None, [_spared(judged, wrong), _untouched(judged, wrong), _proportion(wrong)])
    sentences += dependence(component, implementation, wrong[0].case)
    sentences += branches(implementation, wrong[0].case) if component == "block" else []
    return "; ".join(sentences[:MANY])


def _broken(evidence: Evidence) -> str:
    """How it breaks, where it does so whatever it is asked."""
    told = {str(evidence.answers(case)) for case in evidence.trials()}
    return f"breaks whatever it is asked: {told.pop()}" if len(told) == 1 else ""


def _judged(evidence: Evidence) -> Iterator[Judged]:
    for case in evidence.trials():
        answers = evidence.answers(case)
        theirs, exact = reference_answers(evidence.component, case)
        if not isinstance(answers, dict) or not comparable(answers, theirs, of_one_dtype=False):
            continue
        for label, cost in evidence.costs(case).items():
            if label in answers:
                allowed = budget.FACTOR * cost + budget.ULPS
                far = distances(answers[label], exact[label], case.dtype)
                yield Judged(
                    case, label, answers[label].double(), exact[label], allowed, far > allowed, far.max().item()
                )


# which questions


def _inputs(judged: list[Judged], wrong: list[Judged]) -> Iterator[str]:
    """Bounds on dtypes, configurations and answers, in words."""
    narrow, variants = {each.case.dtype for each in wrong}, {each.case.variant for each in wrong}
    if narrow < {each.case.dtype for each in judged if each.case.variant in variants}:
        yield "in " + " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow))
    some, rest = _variants(judged, wrong)
    if rest and len(some) <= max(MANY, len(rest)):
        yield f"with `{'` and `'.join(some[:MANY])}`" + (" and others" if len(some) > MANY else "")
    shared = set.intersection(*(set(_pieces(one.label)) for one in wrong))
    labels = [each.label for each in _alike(judged, wrong)]
    only = [piece for piece in shared if any(piece not in _pieces(label) for label in labels)]
    if only:
        yield "where asked about " + " and ".join(f"“{piece}”" for piece in sorted(only))


def _untouched(judged: list[Judged], wrong: list[Judged]) -> str:
    """What no wrong answer was asked about."""
    seen = {piece for each in wrong for piece in _pieces(each.label)}
    every = dict.fromkeys(piece for each in _alike(judged, wrong) for piece in _pieces(each.label))
    never = [f"“{piece}”" for piece in every if piece not in seen]
    return "right where asked about " + " or ".join(never[:MANY]) if never else ""


def _alike(judged: list[Judged], wrong: list[Judged]) -> list[Judged]:
    """The answers of questions like the wrong ones: of their configurations and dtypes."""
    cases = {(each.case.variant, each.case.dtype) for each in wrong}
    return [each for each in judged if (each.case.variant, each.case.dtype) in cases]


def _spared(judged: list[Judged], wrong: list[Judged]) -> str:
    """The few configurations with which nothing is wrong, where it is most of them."""
    some, rest = _variants(judged, wrong)
    return f"right with `{'` and `'.join(rest[:MANY])}`" if rest and len(some) > max(MANY, len(rest)) else ""


def _variants(judged: list[Judged], wrong: list[Judged]) -> tuple[list[str], list[str]]:
    """The configurations with which something is wrong, and those with which nothing is."""
    dtypes = {each.case.dtype for each in wrong}
    dtype = torch.float32 if torch.float32 in dtypes else next(iter(dtypes))
    asked = [each for each in judged if each.case.dtype == dtype]
    some = dict.fromkeys(each.case.variant for each in asked if each.is_wrong)
    return list(some), [name for name in dict.fromkeys(each.case.variant for each in asked) if name not in some]


def _pieces(label: str) -> list[str]:
    """Of "layer 0 at scale 8": layer 0, and scale 8."""
    return re.split(r", (?:then )?| at (?=scale)", label)


# which entries


def _entries(component: str, wrong: list[Judged]) -> Iterator[str]:
    """Bounds on the axes of answers, in words."""
    for axis, name in enumerate(AXES.get(component, ())):
        found = {tuple(sorted(hit)) for each in wrong if (hit := _hits(component, each, axis)) is not None}
        sizes = {_size(component, each, axis) for each in wrong}
        if len(sizes - {None}) != 1 or not found:
            continue
        size = next(size for size in sizes if size is not None)
        if told := _range(name, {index for hit in found for index in hit}, size):
            yield told


def _hits(component: str, judged: Judged, axis: int) -> set[int] | None:
    """The indices along an axis, counted from the last, at which something is wrong."""
    wrong = _unpacked(component, judged)
    if wrong.dim() <= axis:
        return None
    kept = wrong.dim() - 1 - axis
    others = [other for other in range(wrong.dim()) if other != kept]
    hits = wrong.any(dim=others) if others else wrong
    indices = {int(index) for index in hits.nonzero()}
    return _places(judged, indices) if component == "rotary" and axis == 1 else indices


def _size(component: str, judged: Judged, axis: int) -> int | None:
    wrong = _unpacked(component, judged)
    if component == "rotary" and axis == 1:
        return max(rotary.EDGES) + 1
    return wrong.shape[-1 - axis] if wrong.dim() > axis else None


def _places(judged: Judged, indices: set[int]) -> set[int]:
    """Positions, of which rotary is asked about some far out."""
    if "edges" in judged.label:
        return {rotary.EDGES[index] for index in indices}
    if "offset" in judged.label:
        wrong = judged.wrong.any(dim=-1).any(dim=1)  # (B, T)
        return {int(p) for p in judged.case.positions[wrong]}
    return indices


def _unpacked(component: str, judged: Judged) -> Tensor:
    """Answers about real tokens alone, (n, D), back at their rows and positions, (B, T, D)."""
    wrong, real = judged.wrong, judged.case.real
    if component in ("attention", "block", "llama") and wrong.dim() == 2 and len(wrong) == int(real.sum()):
        whole = wrong.new_zeros(*real.shape, wrong.shape[-1])
        whole[real] = wrong
        return whole
    return wrong


def _range(name: str, indices: set[int], size: int) -> str:
    """A set of indices in words; empty where it is not a part that has some form."""
    low, high = min(indices), max(indices)
    # The first real token has nothing before it, and the first position no angle: these are right in many mistakes.
    from_here = low > (0 if name != "positions" else 1)
    if from_here and high == size - 1 and name == "positions":
        return f"from position {low} on"
    if high == size - 1 and not from_here:
        return _parity(name, indices, size)
    if low == 0 and 2 * (high + 1) == size:
        return f"in the first half of the {name}"
    if high == size - 1 and 2 * low == size:
        return f"in the second half of the {name}"
    one = f"in {name.removesuffix('s')} {low}"
    return one + f" of {size}" if low == high else f"in {name} {low} to {high} of {size}"


def _parity(name: str, indices: set[int], size: int) -> str:
    for remainder, word in enumerate(("even", "odd")):
        if name == "channels" and size > 2 and {index % 2 for index in indices} == {remainder}:
            return f"in {word} {name}"
    return ""


# how


def _proportion(wrong: list[Judged]) -> str:
    """Whether all wrong answers are the right ones times one number, or plus one."""
    factors, terms = [], []
    for each in wrong:
        if not each.answer.isfinite().all() or not each.exact.isfinite().all():
            return "not finite where transformers is" if each.exact.isfinite().all() else ""
        factors.append((each.answer * each.exact).sum() / each.exact.pow(2).sum())
        terms.append((each.answer - each.exact).mean())
    for values, form in ((factors, "{} times what they should be"), (terms, "{} more than they should be")):
        number = torch.stack(values).median()
        others = [each.exact * number if values is factors else each.exact + number for each in wrong]
        if _all_within(wrong, others):
            told = f"{number.item():.5g}"
            return f"the wrong answers are {form.format(told)}"
    return ""


def _all_within(wrong: Iterable[Judged], others: Iterable[Tensor]) -> bool:
    return all(
        bool((distances(each.answer, other, each.case.dtype) <= each.allowed).all())
        for each, other in zip(wrong, others, strict=True)
    )
