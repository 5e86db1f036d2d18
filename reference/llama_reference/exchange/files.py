"""An implementation that answers by files: those of a folder which `llama-reference export` has written."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_reference.command_line import UsageError
from llama_reference.exchange import arrays
from llama_reference.exchange.arrays import BadAnswer
from llama_reference.exchange.calls import ByCalls, Call
from llama_reference.exchange.request import FORMAT
from llama_reference.standard.profile import FULL

MANIFEST, ANSWERS = "manifest.json", "answers"


def manifest(folder: Path) -> dict[str, Any]:
    """What the folder holds. Raises UsageError where that cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder}: no {MANIFEST} in it; `llama-reference export {folder}` writes the questions")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise UsageError(f"{path}: format {found.get('format')}, expected {FORMAT}: export the questions anew")
    return found


class FileAnswers(ByCalls):
    """The answers that lie in the folder; a file that is not there is not offered."""

    def __init__(self, folder: Path) -> None:
        said = manifest(folder)
        self._folder = folder
        self._asked: dict[str, list[dict[str, Any]]] = {}
        for question in said["questions"]:
            for answer in question["answers"]:
                self._asked.setdefault(answer["key"], []).append(answer)
        has: dict[str, Any] = said["profile"] | self._answered(said["questions"])
        self.SUPPORTS = {name: value for name, value in has.items() if name != "parts" and value != _full(name)}

    def _answered(self, questions: list[dict[str, Any]]) -> dict[str, Any]:
        """What is not among the answers, and without which questions can be put that are among them."""
        wanted = [(question["dtype"], one) for question in questions for one in question["answers"] if one["wanted"]]
        there = [(dtype, one) for dtype, one in wanted if (self._folder / one["file"]).is_file()]
        found: dict[str, Any] = {}
        if dtypes := {dtype for dtype, _ in there}:
            found["dtype"] = [dtype for dtype in FULL.dtype if dtype in dtypes]
        if any(one["cached"] for _, one in wanted) and not any(one["cached"] for _, one in there):
            found["cache"] = False
        return found

    def answer(self, call: Call) -> tuple[Tensor, ...]:
        if not call.outputs:
            return ()
        asked = self._asked.get(call.key)
        if asked is None:
            raise NotImplementedError(f"{call.function} as it is asked here, which is not among the questions")
        return tuple(self._read(call, next(one for one in asked if one["output"] == output)) for output in call.outputs)

    def _read(self, call: Call, asked: dict[str, Any]) -> Tensor:
        if not asked["wanted"]:
            return torch.zeros(asked["shape"])
        path = self._folder / asked["file"]
        if not path.is_file():
            raise NotImplementedError
        found = arrays.read(path)
        if call.function != "generate":  # where tokens end is what is judged
            shape = tuple(asked["shape"])
            if found.shape != shape:
                raise BadAnswer(
                    f"{asked['file']}: {call.function} has the shape {tuple(found.shape)}, expected {shape}"
                )
            if found.dtype.is_floating_point and found.numel() and found.isnan().all():
                raise BadAnswer(f"{asked['file']}: {call.function} is NaN everywhere")
        return arrays.narrowed(found, getattr(torch, asked["dtype"]))


def _full(name: str) -> Any:
    value = next(getattr(FULL, field.name) for field in fields(FULL) if field.name == name)
    return list(value) if isinstance(value, tuple) else value
