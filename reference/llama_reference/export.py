"""`llama-reference export DIR` and what `llama-reference grade DIR` is about: questions and answers as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_reference.command_line import UsageError, suggestion
from llama_reference.exchange.export import export
from llama_reference.exchange.files import manifest
from llama_reference.standard.profile import FULL, Profile
from llama_reference.suite.plan import answer_cases, chosen, is_telling


def tell(
    directory: Path,
    components: tuple[str, ...],
    quick: bool,
    dtypes: tuple[str, ...],
    lacking: tuple[str, ...],
    ending: str,
    with_answers: bool,
) -> int:
    """Write the questions and say how many; return the exit status. Raises UsageError."""
    asked = [
        (component, variant, dtype)
        for component in chosen(components)
        for variant, dtype in answer_cases(component)
        if str(dtype).removeprefix("torch.") in dtypes and (not quick or is_telling(variant, dtype))
    ]
    count = export(directory, asked, without(lacking), ending, with_answers)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"{directory}: {count} questions, {size / 1e6:.1f} MB; README.md there says how to answer them")
    return 0


def without(features: tuple[str, ...]) -> Profile:
    """The profile without these features. Raises UsageError for one that is none, or the last of its kind."""
    nothing: dict[str, Any] = {name: () if isinstance(has, tuple) else False for name, has in vars(FULL).items()}
    known, profile = Profile(**nothing).lacks(), FULL
    for feature in features:
        if feature not in known:
            expected = f"expected some of {', '.join(known)}{suggestion(feature, known)}"
            raise UsageError(f"--without {feature!r} is no feature, {expected}")
        name, _, option = feature.partition(" ")
        left: Any = tuple(x for x in getattr(profile, name) if x != option) if option else False
        if option and not left and name != "parts":
            raise UsageError(f"--without {feature!r} leaves no {name}")
        profile = replace(profile, **{name: left})
    return profile


def questions(directory: Path) -> set[tuple[str, str, str]]:
    """(component, variant, dtype) of every question in the folder. Raises UsageError where it is none."""
    return {(one["component"], one["variant"], one["dtype"]) for one in manifest(directory)["questions"]}
