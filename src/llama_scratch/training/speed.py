r"""Floating-point operations: how many a token takes, and how many per second the machine does at best.

    forward = 2 P + 2 L T D        P  weights that are multiplied by: all matrices, the embedding only as a head
    backward = 2 · forward         2 L T D: scores and reading, each D · T / 2 pairs under the causal mask a layer

The peak is measured when a run starts: the fastest of the products of two square matrices that fit into 0.15 s, in the
run's dtype, on its device. "30 % of peak" says that training does 30 % as many operations per second; the rest of the
time goes to memory traffic, small operations and the optimizer. It is a yardstick, not a limit: where the machine was
busy during the measurement, a share may come out above 100 %.

Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from llama_scratch import fast
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.data import Corpus
from llama_scratch.model.config import LlamaConfig
from llama_scratch.training.config import Compile, TrainConfig
from llama_scratch.training.distributed import DTYPES, Distributed

# below it, compiling takes longer than it saves: about 20 s, a quarter of the time at 100 GFLOP/s
WORTH_COMPILING = 1e13
LEAST_ROUNDS = 10  # products; the first ones wake the threads up


@dataclass(frozen=True)
class RunUnits:
    """Factors that convert steps and nats into tokens, bytes and operations."""

    steps: int
    tokens_per_step: int
    tokens_per_byte: float
    flops_per_token: int
    peak_flops: float
    """Operations per second of all processes together."""


def measure_units(model: Llama, corpus: Corpus, config: TrainConfig, team: Distributed) -> RunUnits:
    """Compute the units of a run, and measure the peak of this machine."""
    return RunUnits(
        steps=config.steps,
        tokens_per_step=config.batch_size * config.seq_len,
        tokens_per_byte=len(corpus.validation) / len(corpus.validation_text),
        flops_per_token=flops_per_token(model, config.seq_len),
        peak_flops=peak_flops(team.device, DTYPES[config.dtype]) * team.size,
    )


def is_compiled(compile: Compile, units: RunUnits, device: str) -> bool:
    """Decide whether to compile this run: by its size, never by how fast the machine happens to be."""
    total = units.flops_per_token * units.tokens_per_step * units.steps
    return compile == "on" or (compile == "auto" and can_compile(device) and total >= WORTH_COMPILING)


def flops_per_token(model: Llama, context: int) -> int:
    """Operations of forward and backward pass, without recomputation.

    tests/ours/test_train.py holds the formula to torch.utils.flop_counter.
    """
    config: LlamaConfig = model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name)
    head = config.vocab_size * config.hidden_size if config.tie_word_embeddings else 0
    width = config.num_attention_heads * config.head_dim
    return 3 * (2 * (matrices + head) + 2 * config.num_hidden_layers * context * width)


def peak_flops(device: str, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """Measure the best rate of a product of two square matrices, for `seconds`, or a few rounds longer."""
    size = 8192 if device.startswith("cuda") else 768
    a = torch.ones(size, size, device=device, dtype=dtype)
    b = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    rounds = 0
    end = time.perf_counter() + seconds
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        rounds += 1
        started = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def can_compile(device: str) -> bool:
    """Return True if torch.compile finds what it needs: a C++ compiler for the CPU; for a GPU torch brings it along."""
    return device.startswith("cuda") or fast.has_cpp_compiler()
