"""The step as machine code: compiled once per StepKey, kept on disk, called without Python in between.

The compiler runs in a process of its own (AOTInductor), so that a process that decodes never loads it: it takes
more memory than a small model, and the same step called through `torch.compile` takes a millisecond longer
(benchmarks/NOTES.md).
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
from llama_scratch.dtypes import dtype_name
from llama_scratch.errors import LlamaScratchError
from llama_scratch.model.config import LlamaConfig
from llama_scratch.torch_private import load_compiled

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
)
CACHE_DIR_VARIABLE = "LLAMA_SCRATCH_CACHE_DIR"

log = logging.getLogger("llama_scratch")


class CompileError(LlamaScratchError):
    """No compiled step; the message is the compiler's last line, or names the file that cannot be loaded."""


@dataclass(frozen=True)
class StepKey:
    """What a step is compiled for. The lengths and the number of several texts may differ from call to call."""

    sizes: str
    """The fields of a LlamaConfig that the step depends on, as JSON."""
    dtype: str
    several: bool
    """Two texts or more, or one."""
    padded: bool
    threads: int

    @cached_property
    def path(self) -> Path:
        """The file of the compiled step, different for another processor, torch or version of this code."""
        sources = [Path(__file__).with_name(name).read_text() for name in ("kernel.py", "compiler.py")]
        parts = json.dumps([dataclasses.astuple(self), torch.__version__, _processor(), sources])
        return cache_dir() / f"step-{hashlib.sha256(parts.encode()).hexdigest()[:24]}.so"


def cache_dir() -> Path:
    """Return the folder of compiled steps: $LLAMA_SCRATCH_CACHE_DIR, or llama_scratch in the user's cache."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(CACHE_DIR_VARIABLE) or user_cache / "llama_scratch")


def step_key(config: LlamaConfig, dtype: torch.dtype, several: bool, padded: bool) -> StepKey:
    """Key of a call in this process."""
    sizes = json.dumps({name: getattr(config, name) for name in SIZES})
    return StepKey(sizes, dtype_name(dtype), several, padded, torch.get_num_threads())


def has_cpp_compiler() -> bool:
    """Return True if TorchInductor finds a compiler for the CPU."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


@cache
def load(key: StepKey) -> Callable[[list[Tensor]], list[Tensor]]:
    """Load the step, which maps its tensors, in the order of compiler.py, to [logits].

    Compiles it first if it is not kept yet, which takes seconds per layer and is logged. Raises CompileError, and
    OSError if it cannot be kept.
    """
    if not key.path.exists():
        _make(key)
    try:
        return load_compiled(str(key.path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CompileError(f"{key.path} is not a valid compiled step; delete it: {reason}") from None


def _make(key: StepKey) -> None:
    """Compile the step, unless another process has done so by the time that the lock is free."""
    path = key.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path) as alone:
        if path.exists():
            return
        log.info("compiling the step of one token")
        started = time.perf_counter()
        with atomic_file(path, held=alone) as made:
            _compile(key, made)
    log.info("compiled in %.0f s, kept as %s", time.perf_counter() - started, path)


def _compile(key: StepKey, made: Path) -> None:
    command = [sys.executable, "-m", "llama_scratch.fast.compiler", json.dumps(dataclasses.asdict(key)), str(made)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])


@cache
def _processor() -> str:
    """Return the features of the processor, on which machine code depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + torch.backends.cpu.get_cpu_capability()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.machine())
