"""What a Llama can be asked, found by asking it.

The hard case is asked first. Where it is refused, the plainest case that is not refused is looked for, and one feature
after another is added to it, each kept unless it is refused: what comes out is a case that is not refused either.
Refused is what raises NotImplementedError. Whatever else happens is an answer, to be judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from llama_reference.implementation import Implementation
from llama_reference.questions.checks import CHECKS
from llama_reference.standard.cases import Case, dtypes
from llama_reference.standard.profile import FULL, Profile, restricted

LISTS = ("hidden_act", "rope_type", "dtype")
SWITCHES = tuple(f.name for f in fields(Profile) if f.default is True)


@dataclass(frozen=True)
class Found:
    """The profile that a component is asked within; why what it lacks is lacking, by feature."""

    profile: Profile = FULL
    reasons: dict[str, str] = field(default_factory=dict)
    answers: bool = True
    """False where every case is refused."""


def find(component: str, implementation: Implementation, stated: Mapping[str, Any]) -> Found:
    """What the component has. Where every case is refused, nothing but what is stated is known to be lacking."""
    most = restricted(FULL, stated)
    if _refusal(component, implementation, most) is None:
        return Found(most)
    plain = (p for p in _plainest(component, most) if _refusal(component, implementation, p) is None)
    if (profile := next(plain, None)) is None:
        return Found(most, answers=False)
    reasons: dict[str, str] = {}
    for name, option in _features(most):
        value: Any = (option,) if name in LISTS else True
        alone = replace(profile, **{name: value})
        told = _refusal(component, implementation, alone, "tied" if name == "tie_word_embeddings" else "hard")
        if told is None:
            profile = _with(profile, name, option)
        else:
            reasons[f"{name} {option}" if name in LISTS else name] = told
    return Found(profile, reasons)


def _plainest(component: str, most: Profile) -> Iterator[Profile]:
    """Profiles of one rope_type, one activation and one dtype, and of nothing else; the commonest first."""
    switches: dict[str, Any] = dict.fromkeys(SWITCHES, False) | {"cache": component == "kv_cache"}
    for dtype in most.dtype:
        for act in most.hidden_act:
            for kind in reversed(most.rope_type):
                yield replace(most, **switches, rope_type=(kind,), hidden_act=(act,), dtype=(dtype,))


def _features(most: Profile) -> Iterator[tuple[str, str]]:
    """What there is to add: a switch, or an option of a list."""
    yield from ((name, "") for name in SWITCHES if getattr(most, name))
    yield from ((name, option) for name in LISTS for option in getattr(most, name))


def _with(profile: Profile, name: str, option: str) -> Profile:
    if name not in LISTS:
        return replace(profile, **{name: True})  # type: ignore[arg-type]
    order: tuple[str, ...] = getattr(FULL, name)
    return replace(profile, **{name: tuple(x for x in order if x == option or x in getattr(profile, name))})  # type: ignore[arg-type]


def _refusal(component: str, implementation: Implementation, profile: Profile, variant: str = "hard") -> str | None:
    """In which words it refuses; None where it answers, be it by an error."""
    case = Case(variant, dtypes(profile)[0], profile=profile)
    try:
        with torch.no_grad():
            CHECKS[component].ask(implementation, case)
    except NotImplementedError as refusal:
        return str(refusal)
    except Exception:  # whatever a foreign implementation raises is judged later
        return None
    return None
