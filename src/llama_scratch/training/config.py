"""TrainConfig: everything that a run depends on; each field is a flag of `python -m llama_scratch.train`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llama_scratch.command_line import flag, is_usable
from llama_scratch.model.config_rules import check
from llama_scratch.training.distributed import Dtype, Parallel
from llama_scratch.training.optimizer import Kind
from llama_scratch.training.presets import Preset

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on. Raises ConfigError, naming the flag, for a value that cannot be."""

    data: tuple[Path, ...] = ()
    """Text files, .jsonl files, either with .gz, folders of them, or globs; none: the text that ships with Python."""
    out: Path = Path("out")
    """Where the checkpoint, log.jsonl and loss.png go."""
    preset: Preset = "tiny"
    """The dial: sizes, steps and learning rate, shown below; each of them is a flag that overrides it."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, as it was told when it started."""
    init_from: Path | None = None
    """Start from the weights, sizes and tokenizer of this Hugging Face directory: fine-tuning."""
    text_field: str = "text"
    """Of a line of a .jsonl file."""
    tokens: Path | None = None
    """Where the text is kept tokenised (None: OUT/tokens); runs may share it."""
    held_out: float = 0.1
    """Share of the text, its end, that is validated on; at most a million characters."""
    processes: int | None = None
    """That tokenise a large text; None: one for each core."""
    steps: int = 720
    """Optimiser steps."""
    batch_size: int = 8
    """Windows a step, in all processes together."""
    accumulate: int = 1
    """Parts that each process computes its share of a batch in: less memory, the same step."""
    context: int = 128
    """Tokens a window, and the longest text that the model will have seen."""
    vocab_size: int = 1024
    """Pieces of the tokenizer."""
    hidden_size: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Query heads; every two share a key/value head."""
    optimizer: Kind = "muon"
    """muon: for the matrices of the layers, AdamW for the rest; it needs half the steps. adamw: for all."""
    learning_rate: float = 4e-3
    """The highest; a tenth of it is left at the end."""
    warmup: int = 45
    """Steps of rising learning rate."""
    weight_decay: float = 0.5
    """Of matrices; norms and biases are not decayed."""
    clip: float = 1.0
    """The largest norm of all gradients together."""
    eval_every: int = 144
    """Steps between validations, each with a sample."""
    save_every: int = 144
    """Steps between checkpoints to resume from."""
    keep: int = 2
    """Checkpoints that stay."""
    seed: int = 0
    """Of weights and windows."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""
    dtype: Dtype = "float32"
    """Of the products; weights and optimiser are float32 in any case."""
    compile: Compile = "auto"
    """torch.compile; auto: where there is a compiler and the run is long enough to gain by it."""
    recompute: bool = False
    """Activations are computed again for the backward pass: less memory, a third more time."""
    parallel: Parallel = "auto"
    """Under torchrun: a copy of the model a process, or a part (fsdp); auto: a part above 0.5 G parameters."""

    def __post_init__(self) -> None:
        whole = ("steps", "batch_size", "accumulate", "eval_every", "save_every", "keep", "warmup", "layers", "heads")
        for name in whole:
            check(flag(name), getattr(self, name), "1 or more", lambda v: v >= 1)
        check("--seed", self.seed, "0 or more", lambda v: v >= 0)
        check("--processes", self.processes, "1 or more", lambda v: v is None or v >= 1)
        check("--context", self.context, "2 or more: a window predicts all its tokens but the first", lambda v: v >= 2)
        check("--heads", self.heads, "an even number", lambda v: v % 2 == 0)
        check("--held-out", self.held_out, "a share between 0 and 1", lambda v: 0 < v < 1)
        for name in ("learning_rate", "clip"):
            check(flag(name), getattr(self, name), "a positive number", lambda v: 0 < v < math.inf)
        check("--device", self.device, "a device that torch can use", is_usable)
        check("--weight-decay", self.weight_decay, "0 or more", lambda v: 0 <= v < math.inf)
