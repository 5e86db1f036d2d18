"""Trouble: what keeps an adapter from being judged, told as what it is. It is no verdict on any component.

The environment lacks something (a package, a compiler, a device, memory, a file), the process ends or does not answer,
or every answer is such that nothing can be compared: another shape, another device, NaN, another answer each time.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import torch
from torch import Tensor

from llama_reference.implementation import COMPONENTS
from llama_reference.questions.checks.check import Answers
from llama_reference.standard.outcome import Outcome

_COMPILER = re.compile(r"\b(compiler|nvcc|gcc|cc1|c\+\+|g\+\+|clang|msvc|cl\.exe|ninja)(?!\w)", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CUDA|cuDNN|NVIDIA|HIP|MPS|XPU|meta tensor|same device|different device)\b", re.IGNORECASE)


class NoVerdict(Exception):  # noqa: N818  an outcome, not an error
    """What keeps an answer from being judged. The message begins with "trouble: "."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{Outcome.TROUBLE}: {reason}")


def reason(error: BaseException) -> str:
    """The text of a NoVerdict without its beginning, of another error with its type."""
    text = str(error)
    return (
        text.removeprefix(f"{Outcome.TROUBLE}: ") if isinstance(error, NoVerdict) else f"{type(error).__name__}: {text}"
    )


def of_environment(error: BaseException) -> str | None:
    """What the environment lacks, by the error or what it was raised from; None where it is not to blame."""
    for cause in _chain(error):
        text = f"{type(cause).__name__}: {cause}"
        if isinstance(cause, ImportError):
            return "a package is missing"
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return "memory is used up"
        if "Compiler" in type(cause).__name__:
            return "a compiler is missing or fails"
        if isinstance(cause, OSError | RuntimeError | subprocess.CalledProcessError) and _COMPILER.search(text):
            return "a compiler is missing or fails"
        if isinstance(cause, RuntimeError | AssertionError | NotImplementedError) and _DEVICE.search(text):
            return "a device is missing, or tensors lie on another one"
        if isinstance(cause, OSError):
            return "a file or a library is missing"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def of_form(answer: object, name: str) -> str | None:
    """Why what a function returned cannot be compared, whatever was asked; None where it can."""
    for part in answer if name == "rotary" and isinstance(answer, tuple) else (answer,):
        if name in COMPONENTS and not isinstance(part, Tensor):
            return f"{name} answers with a {type(part).__name__}, expected a tensor"
        if isinstance(part, Tensor) and part.device.type != "cpu":
            return f"{name} answers on the device {part.device}, expected cpu"
    return None


def of_shapes(answers: Answers, theirs: Answers) -> str | None:
    """Which answer has another form than transformers'; None where none has."""
    for label, expected in theirs.items():
        if label not in answers:
            continue
        answer = answers[label]
        if answer.shape != expected.shape:
            return f"{label}: the answer has the shape {tuple(answer.shape)}, expected {tuple(expected.shape)}"
        if answer.dtype.is_floating_point != expected.dtype.is_floating_point:
            return f"{label}: the answer is of {answer.dtype}, expected {expected.dtype}"
    return None


def other_dtypes(answers: Answers, theirs: Answers) -> str:
    """Which dtypes answers have instead of those of transformers', in words; empty where none has another."""
    pairs = {(str(answers[label].dtype), str(theirs[label].dtype)) for label in theirs if label in answers}
    return ", ".join(f"{found} instead of {expected}" for found, expected in sorted(pairs) if found != expected)


def of_numbers(answers: Answers) -> str | None:
    """Whether there is no number in any of the answers."""
    if all(answer.isnan().all() for answer in answers.values()):
        return "every answer is NaN"
    return None


def of_repetition(first: Answers, again: Answers) -> str | None:
    """Whether the same question got another answer when it was asked again."""
    for label, answer in first.items():
        if label not in again or not torch.equal(answer.nan_to_num(), again[label].nan_to_num()):
            return f"{label}: the same question gets another answer each time"
    return None
