"""The step as machine code: made once for each kind of model and call, kept on disk, called without Python between.

The compiler runs in a process of its own (AOTInductor), so that a process that decodes never holds it: it takes more
memory than a small model, and the same step called through `torch.compile` a millisecond more (benchmarks/NOTES.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from llama_scratch.checkpoint.atomic import atomic_file, locked
from llama_scratch.errors import LlamaScratchError
from llama_scratch.model.config import LlamaConfig

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias")  # fmt: skip

STEPS = "LLAMA_SCRATCH_STEPS"

log = logging.getLogger("llama_scratch")


class CompileError(LlamaScratchError):
    """There is no step: the message is the compiler's last line, or names the file that cannot be loaded."""


@dataclass(frozen=True)
class Kind:
    """What a step is compiled for. What else a call brings, lengths and numbers of texts, may differ."""

    sizes: str
    """The fields of a LlamaConfig that the step depends on, as JSON."""
    dtype: str
    several: bool
    """Two texts or more, or one."""
    padded: bool
    threads: int

    @cached_property
    def path(self) -> Path:
        """Where it is kept: another processor, torch or version of this code has another place."""
        made_by = [Path(__file__).with_name(name).read_text() for name in ("kernel.py", "compiler.py")]
        parts = json.dumps([dataclasses.astuple(self), torch.__version__, _processor(), made_by])
        return home() / f"step-{hashlib.sha256(parts.encode()).hexdigest()[:24]}.so"


def home() -> Path:
    """The folder of compiled steps: $LLAMA_SCRATCH_STEPS, or llama_scratch in the user's cache."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(STEPS) or cache_home / "llama_scratch")


def kind(config: LlamaConfig, dtype: torch.dtype, several: bool, padded: bool) -> Kind:
    """Of a call, in this process."""
    sizes = json.dumps({name: getattr(config, name) for name in SIZES})
    return Kind(sizes, str(dtype).removeprefix("torch."), several, padded, torch.get_num_threads())


def can_compile() -> bool:
    """Whether TorchInductor has a compiler for the CPU."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


@cache
def load(kind: Kind) -> Callable[[list[Tensor]], list[Tensor]]:
    """The step, from its tensors in the order of compiler.py to [logits]. Made where it is not kept yet, which takes
    seconds a layer and is told in the log. Raises CompileError, and OSError where there is no room for it.
    """
    if not kind.path.exists():
        _make(kind)
    try:  # not torch._inductor.aoti_load_package: it imports the compiler, and leaves 2 MB in the temporary folder
        return torch._C._aoti.AOTIModelContainerRunnerCpu(str(kind.path), 1).run
    except RuntimeError as error:
        raise CompileError(f"{kind.path} is no compiled step, delete it: {str(error).splitlines()[0]}") from None


def _make(kind: Kind) -> None:
    """Compile it, unless another process has by the time that this one may."""
    path = kind.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path) as alone:
        if path.exists():
            return
        log.info("compiling the step of one token")
        started = time.perf_counter()
        with atomic_file(path, held=alone) as made:
            _compile(kind, made)
    log.info("compiled in %.0f s, kept as %s", time.perf_counter() - started, path)


def _compile(kind: Kind, made: Path) -> None:
    told = [sys.executable, "-m", "llama_scratch.fast.compiler", json.dumps(dataclasses.asdict(kind)), str(made)]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(told, env=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])


@cache
def _processor() -> str:
    """What machine code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + torch.backends.cpu.get_cpu_capability()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.machine())
