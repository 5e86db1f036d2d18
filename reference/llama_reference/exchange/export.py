"""Writes the suite's questions into a folder: `llama-reference export DIR`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_reference import mistakes
from llama_reference.exchange import arrays, request
from llama_reference.exchange.calls import Call, digest
from llama_reference.exchange.files import ANSWERS, MANIFEST
from llama_reference.exchange.recording import Recorded, record
from llama_reference.exchange.truth import Truth
from llama_reference.questions.checks import CHECKS
from llama_reference.standard.cases import Case, dtypes, lacking, twin
from llama_reference.standard.profile import PARTS, Profile

HERE = files("llama_reference.exchange")


@dataclass
class Folder:
    """Where the questions are written; of equal tensors one file."""

    path: Path
    ending: str

    def store(self, tensor: Tensor) -> str:
        """The path of the file that holds the tensor, from the folder on."""
        kind = ".bfloat16" if tensor.dtype == torch.bfloat16 else ""
        name = f"data/{digest(tensor)}{kind}.{self.ending}"
        if not (self.path / name).exists():
            arrays.write(self.path / name, tensor)
        return name

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def export(path: Path, asked: list[tuple[str, str, torch.dtype]], profile: Profile, ending: str, truth: bool) -> int:
    """Write the questions (component, variant, dtype) that are within the profile; how many there are."""
    torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings
    folder = Folder(path, ending)
    parts = tuple(part for part in PARTS if any(component == part for component, *_ in asked))
    profile = replace(profile, parts=tuple(part for part in profile.parts if part in parts))
    questions = [
        _question(folder, component, Case(variant, dtype, profile=profile), truth)
        for component, variant, dtype in asked
        if is_within(component, variant, dtype, profile)
    ]
    folder.write("README.md", HERE.joinpath("README.md").read_text(encoding="utf-8"))
    folder.write("manifest.schema.json", HERE.joinpath("manifest.schema.json").read_text(encoding="utf-8"))
    folder.write(MANIFEST, json.dumps(_manifest(questions, profile), indent=1) + "\n")  # last: now it is whole
    return len(questions)


def is_within(component: str, variant: str, dtype: torch.dtype, profile: Profile) -> bool:
    """Whether the profile has what the question is about, and no other question is the same within it."""
    if dtype not in dtypes(profile) or lacking(variant, profile) or (component == "kv_cache" and not profile.cache):
        return False
    return twin(variant, CHECKS[component].variants, profile) == variant


def _question(folder: Folder, component: str, case: Case, with_truth: bool) -> dict[str, Any]:
    """Write one question; what the manifest says of it."""
    dtype = str(case.dtype).removeprefix("torch.")
    name = f"{component}/{re.sub(r'[^a-z0-9_]+', '_', case.variant)}.{dtype}"
    recorded = record(component, case)
    answers = [*_answers(folder, name, recorded)]
    known = {(one["key"], one["output"]): one for one in answers}

    def file(call: Call, output: str) -> str:
        one = known[call.key, output]
        return Path(one["file"]).name if one["wanted"] else ""

    folder.write(f"questions/{name}.txt", request.text(recorded.calls.values(), folder.store, file))
    said: dict[str, Any] = {"name": name, "component": component, "variant": case.variant, "dtype": dtype}
    said |= {"request": f"questions/{name}.txt", "folder": f"{ANSWERS}/{name}", "why": _why(name), "answers": answers}
    if with_truth and (truth := _truth(folder, name, Truth(component, case, recorded), answers)):
        said["truth"] = truth
    return said


def _truth(folder: Folder, name: str, truth: Truth, answers: list[dict[str, Any]]) -> dict[str, str]:
    """Write what is right; which files have it. To every answer that has some of it is added which rows."""
    judged = [one for one in answers if one["wanted"] and truth.is_judged((one["key"], one["output"]))]
    outputs = [(one["key"], one["output"]) for one in judged]
    for one, output in zip(judged, outputs, strict=True):
        one |= {"rows": truth.rows(output), "allowed": truth.allowed(output), "ties": truth.has_ties(output)}
    if not outputs:
        return {}
    found = {}
    for kind, tensor in zip(("exact", "transformers"), truth.arrays(outputs), strict=True):
        found[kind] = f"truth/{name}.{kind}.{folder.ending}"
        arrays.write(folder.path / found[kind], tensor)
    return found


def _answers(folder: Folder, name: str, recorded: Recorded) -> Iterator[dict[str, Any]]:
    number = 0
    for key, call in {call.key: call for call in recorded.calls.values()}.items():
        for output in call.outputs:
            wanted = (key, output) in recorded.labels
            theirs = recorded.answers[key, output]
            labels, which = recorded.labels[key, output] if wanted else ([], torch.tensor([-1]))
            yield {
                "file": f"{ANSWERS}/{name}/{number}.{folder.ending}" if wanted else "",
                "function": call.function,
                "output": output,
                "key": key,
                "wanted": wanted,
                "cached": call.cache is not None,
                "shape": list(theirs.shape),
                "dtype": str(theirs.dtype).removeprefix("torch."),
                "labels": [labels[i] for i in which.unique().tolist() if i >= 0],
            }
            number += wanted


def _why(name: str) -> list[str]:
    """The known mistakes that the question catches."""
    return sorted(json.loads(HERE.joinpath("why.json").read_text(encoding="utf-8")).get(name, []))


def _manifest(questions: list[dict[str, Any]], profile: Profile) -> dict[str, Any]:
    components = list(dict.fromkeys(question["component"] for question in questions))
    return {
        "format": request.FORMAT,
        "written_by": {name: version(name) for name in ("llama_scratch", "torch", "transformers", "numpy")},
        "profile": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(profile).items()},
        "mistakes": {
            component: {known.name: {"why": known.why, "seen": known.seen} for known in mistakes.of(component)}
            for component in components
        },
        "questions": questions,
    }
