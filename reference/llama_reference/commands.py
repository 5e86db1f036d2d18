"""What can be typed after `llama-reference`, and its flags.

The work is imported when a command runs: torch and transformers take seconds, and `--help` or a wrong flag has its
answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from llama_reference.exchange.program import Program

from llama_reference.command_line import UsageError, check_output_file
from llama_reference.suite import clean_process

Question = tuple[str, str, str]  # component, variant, dtype


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What commands that judge a Llama have in common."""

    component: tuple[str, ...] = ()
    """Components to judge; without it, all."""
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Components to judge at the same time."""
    time_limit: float | None = None
    """Seconds, from the first question on, after which the run ends with the verdict so far."""
    question_limit: float = 300.0
    """Seconds that one question may take; one that takes longer is told, and its component asked no more."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """List every failure after the table."""
    json: Path | None = None
    """Write every answer and verdict as JSON."""
    html: Path | None = None
    """Write one self-contained page."""
    junit: Path | None = None
    """Write the verdicts as JUnit XML."""
    badge: Path | None = None
    """Write an endpoint badge for shields.io."""

    def judge(self, source: Path | Program, quick: bool = False, only: Container[Question] | None = None) -> int:
        """Judge it, tell, and return the exit status. Raises UsageError."""
        if self.processes < 1:
            raise UsageError(f"--processes is {self.processes}, expected 1 or more")
        for name in ("time_limit", "question_limit"):
            if (seconds := getattr(self, name)) is not None and seconds <= 0:
                raise UsageError(f"--{name.replace('_', '-')} is {seconds:g}, expected seconds, more than 0")
        files = {name: getattr(self, name) for name in ("json", "html", "junit", "badge")}
        for name, path in files.items():
            check_output_file(f"--{name}", path)
        clean_process.prepare()  # while it imports the suite, this process does
        from llama_reference import check
        from llama_reference.suite.plan import chosen
        from llama_reference.suite.runner import Limits, run

        components = chosen(self.component)
        limits = Limits(self.time_limit, self.question_limit)
        results = run(source, components, quick, self.processes, limits, sys.stderr.isatty(), only)
        return check.tell(results, source, self.verbose, files)


@dataclass(frozen=True, kw_only=True)
class Check(Judging):
    """Judge a Llama through its adapter, component by component."""

    adapter: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="ADAPTER.py")] = None
    """The adapter: a Python file with the functions that `llama-reference template` shows."""
    command: str | None = None
    """Instead of an adapter a program: "./prog {request} {answer}", or "./prog", which reads both from its input."""
    python: Path | None = None
    """Another Python, which runs the adapter in its own environment; that needs NumPy only."""
    request_limit: float = 60.0
    """Seconds that a program may take to answer one request."""
    quick: bool = False
    """Ask fewer dtypes and gradients: every variant in float32, the hard one in all dtypes."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        if (self.adapter is None) == (self.command is None):
            raise UsageError("expected ADAPTER.py or --command, and not both")
        if self.python is not None and self.adapter is None:
            raise UsageError("--python runs an adapter: expected ADAPTER.py, too")
        if self.request_limit <= 0:
            raise UsageError(f"--request-limit is {self.request_limit:g}, expected seconds, more than 0")
        if self.adapter is not None and not self.adapter.is_file():
            raise UsageError(f"{self.adapter}: no such file; `llama-reference template` writes one to start from")
        if self.adapter is not None and self.python is None:
            return self.judge(self.adapter, self.quick)
        from llama_reference.exchange.program import Program, served

        command = served(self.python, self.adapter) if self.python and self.adapter else self.command or ""
        with TemporaryDirectory(prefix="llama_reference-") as folder:
            return self.judge(Program(command, self.request_limit, Path(folder)), self.quick)


@dataclass(frozen=True)
class Export:
    """Write the suite's questions as files, for a Llama in any language."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder; its README says what is in it."""
    component: tuple[str, ...] = ()
    """Components to ask about; without it, all."""
    quick: bool = False
    """Fewer dtypes: every variant in float32, the hard one in all dtypes."""
    dtype: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")
    """Dtypes to ask in."""
    without: tuple[str, ...] = ()
    """Features that your Llama lacks, as tables name them: padding, mlp_bias, "rope_type yarn", cache, ..."""
    format: Literal["npy", "safetensors"] = "npy"
    """What tensors are stored in."""
    with_answers: bool = False
    """Write what is right, too, for tests that need neither this program nor transformers."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise UsageError(f"{self.directory}: something is there already, expected a new folder")
        from llama_reference import export

        asked = self.component, self.quick, self.dtype, self.without
        return export.tell(self.directory, *asked, self.format, self.with_answers)


@dataclass(frozen=True, kw_only=True)
class Grade(Judging):
    """Judge the answers in a folder that `llama-reference export` has written."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The folder, with the answers that your Llama has put into it."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        from llama_reference import export

        return self.judge(self.directory, only=export.questions(self.directory))


@dataclass(frozen=True)
class Verify:
    """Compare a checkpoint with transformers, layer by layer, through an adapter, or with another file of it."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The checkpoint: config.json and weights, as on the hub; with --against, of any format."""
    adapter: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="ADAPTER.py")] = None
    """The adapter: a Python file with the functions that `llama-reference template` shows."""
    against: Path | None = None
    """Another checkpoint of the same model, of transformers, Meta, llama.cpp (GGUF) or llama2.c: which tensors differ,
    and which mistake of conversion explains it.
    """
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What to compute in (default: the checkpoint's own)."""
    tokens: int = 32
    """Length of the text."""
    layers: str | None = None
    """Layers to look at, as 0,1,15: each is read by itself, so that a checkpoint larger than memory can be asked."""
    json: Path | None = None
    """Write the findings as JSON."""
    html: Path | None = None
    """Write one self-contained page."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        if self.tokens < 1:
            raise UsageError(f"--tokens is {self.tokens}, expected 1 or more")
        check_output_file("--json", self.json)
        check_output_file("--html", self.html)
        if self.against is not None:
            if self.adapter is not None:
                raise UsageError(
                    f"{self.adapter} and --against {self.against}: expected an adapter or another checkpoint"
                )
            from llama_reference.against import against

            return against(self.directory, self.against, self.json)
        if self.adapter is None:
            raise UsageError("ADAPTER.py is missing: the adapter of a Llama, or --against another checkpoint")
        from llama_reference import verify, verify_layers

        if self.layers is None:
            found = verify.verify(self.directory, self.adapter, self.dtype, self.tokens)
        else:
            numbers = _numbers(self.layers)
            found = verify_layers.verify_layers(self.directory, self.adapter, self.dtype, self.tokens, numbers)
        return verify.tell(found, self.json, self.html)


def _numbers(text: str) -> list[int]:
    """0,1,15 as numbers, each once, in order. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--layers is {text}, expected numbers with commas between them: 0,1,15")
    return sorted(set(map(int, parts)))


@dataclass(frozen=True)
class Template:
    """Print an adapter to start from, every function of it explained."""

    def main(self) -> int:
        """Run the command, and return its exit status."""
        print(files("llama_reference").joinpath("templates", "adapter.py").read_text(encoding="utf-8"), end="")
        return 0


@dataclass(frozen=True)
class Mistakes:
    """List the known mistakes: what is done wrong, and where it was seen."""

    component: tyro.conf.Positional[tuple[str, ...]] = ()
    """Components, or conversion (default: all)."""

    def main(self) -> int:
        """Run the command, and return its exit status. Raises UsageError."""
        from llama_reference import catalogue

        print(catalogue.listing(self.component))
        return 0


Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Grade, tyro.conf.subcommand("grade")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Template, tyro.conf.subcommand("template")]
    | Annotated[Mistakes, tyro.conf.subcommand("mistakes")]
)
