"""A step of training, forward, backward, clipping and AdamW: ours beside transformers', both compiled and not.

Two shapes: a toy of a million parameters, where what is not a product counts, and ten million, where products are most.
The share of the machine is that of the best product of two square matrices, measured in the same run.

And a whole run, as a person starts it: import, tokenizer, training, evaluation, saving. TINYSHAKESPEARE=PATH says where
the text of that name lies, 1,115,394 bytes, of which the last tenth is held out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from benchmarks.training_step import SHAPES
from llama_scratch.training import speed
from llama_scratch.training.distributed import DTYPES

PROVIDERS = ["HF", "HF compiled", "ours", "ours compiled"]  # the last beside the best of HF is what counts
LARGE = pytest.mark.large


class Variant:
    """One of them, in a process of its own: none finds its memory as another has left it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def facts(self) -> dict[str, Any]:
        """What it says of itself once it is ready."""
        return self._read()

    def seconds(self) -> float:
        """Of a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended: {self._process.args}"
        return json.loads(line)


@contextmanager
def variant(shape: str, dtype: str, provider: str) -> Iterator[Variant]:
    told = [sys.executable, "-m", "benchmarks.training_step", shape, dtype, provider]
    with subprocess.Popen(told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Variant(process)
        finally:
            process.kill()


@pytest.mark.parametrize("dtype", [pytest.param("float32"), pytest.param("bfloat16", marks=LARGE)])
@pytest.mark.parametrize("shape", ["small", pytest.param("large", marks=LARGE)])
def test_step(benchmark, tell, rounds, shape, dtype):
    """The four of them in turn, round by round."""
    if not speed.can_compile("cpu"):
        pytest.skip("needs a C++ compiler, and there is none")
    with ExitStack() as stack:
        variants = {name: stack.enter_context(variant(shape, dtype, name)) for name in PROVIDERS}
        facts = {name: one.facts() for name, one in variants.items()}
        losses = [fact["loss"] for fact in facts.values()]
        roundings = torch.finfo(DTYPES[dtype]).eps
        assert max(losses) - min(losses) <= roundings * losses[0], "a fast wrong answer is no result"
        times: dict[str, list[float]] = {name: [] for name in PROVIDERS}

        def one_round() -> None:
            for name, one in variants.items():
                times[name].append(one.seconds())

        benchmark.group = f"training step, {shape}, {dtype}"
        benchmark.pedantic(variants["ours compiled"].seconds, setup=one_round, rounds=rounds)
    medians = {name: statistics.median(times[name]) for name in PROVIDERS}
    best = min(medians["HF"], medians["HF compiled"])
    fact = facts["ours compiled"]
    peak = speed.peak_flops("cpu", DTYPES[dtype])
    tokens = fact["tokens"]
    share = fact["flops"] / medians["ours compiled"] / peak
    cells = {name: f"{tokens / medians[name]:.0f}" for name in PROVIDERS}
    cells |= {"ours compiled / best HF": f"{best / medians['ours compiled']:.2f}", "ours, of GEMM peak": f"{share:.0%}"}
    tell.row("training, tokens/s", f"{shape} {dtype}, {SHAPES[shape][0]} x {SHAPES[shape][1]} tokens", cells)
    benchmark.extra_info |= {
        "torch": torch.__version__, "seconds_a_step": medians, "tokens": tokens, "flops": fact["flops"],
        "gemm_peak": peak, "share_of_peak": share,
    }  # fmt: skip


# beside what the tiny preset says
RECIPE = ["--vocab-size", "1024", "--seq-len", "96", "--batch-size", "12", "--warmup", "30", "--learning-rate", "8e-3",
          "--weight-decay", "0.5", "--eval-every", "100000", "--save-every", "100000"]  # fmt: skip
# in the time that nanoGPT takes for the 2,000 steps of its recipe for a CPU, where both were run
STEPS = {"a third of nanoGPT's time": 150, "nanoGPT's time": 780}


@LARGE
@pytest.mark.parametrize("budget", STEPS)
def test_recipe(benchmark, tmp_path, tell, budget):
    if not (text := os.environ.get("TINYSHAKESPEARE")):
        pytest.skip("TINYSHAKESPEARE names no file")
    line = [sys.executable, "-m", "llama_scratch.train", "--data", text, "--out", tmp_path / "out", *RECIPE]
    line += ["--steps", str(STEPS[budget])]
    done = benchmark.pedantic(subprocess.run, (line,), {"capture_output": True, "text": True}, rounds=1)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    cells = {
        "steps": str(found["step"]),
        "seconds": f"{benchmark.stats.stats.median:.1f}",
        "bits/byte": f"{found['validation_bits_per_byte']:.3f}",
    }
    tell.row("a whole run", budget, cells)
