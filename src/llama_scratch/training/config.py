"""TrainConfig: the settings of a run; each field is a flag of `python -m llama_scratch.train`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from llama_scratch.command_line import flag, is_usable
from llama_scratch.model.config_rules import check
from llama_scratch.training.distributed import Dtype, Parallel
from llama_scratch.training.optimizer import OptimizerName
from llama_scratch.training.presets import Preset

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. Raises ConfigError, naming the flag, for an invalid value."""

    data: tuple[Path, ...] = ()
    """Text to train on: files, folders or globs of text or JSON (.jsonl, .ndjson, .json), plain or gzipped (.gz).
    Without it: the documentation that comes with Python."""
    out: Path = Path("out")
    """Directory for the trained model, its checkpoints, log.jsonl and loss.png."""
    preset: Preset = "tiny"
    """Size of the whole run: layers, width, context, batch, steps, learning rate. Each can be overridden by its own
    flag; the defaults shown here are those of the chosen preset."""
    resume: bool = False
    """Resume the run in --out from its last checkpoint, with its original settings."""
    overwrite: bool = False
    """Replace the run or the checkpoint in --out by a new run."""
    init_from: Path | None = None
    """Fine-tune: start from the weights, model sizes, tokenizer and chat template of this Hugging Face directory."""
    ignore: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Key of --init-from's config.json to leave unread; may be given several times."""
    text_field: str = "text"
    """JSON field that holds the text. Conversations ("messages", "conversations") and Alpaca's "instruction", "input",
    "output" are found without it and need the chat template of --init-from."""
    tokens_dir: Path | None = None
    """Directory for the tokenised text, which several runs may share (default: OUT/tokens)."""
    val_fraction: float = 0.1
    """Fraction of the text, taken from its end, that is used for validation only; at most a million characters."""
    num_workers: int | None = None
    """Worker processes for tokenising (default: one per core)."""
    steps: int = 720
    """Optimizer steps."""
    batch_size: int = 8
    """Sequences per optimizer step, over all processes and accumulated parts."""
    grad_accum_steps: int = 1
    """Gradient accumulation: split each process's share of the batch into this many parts, to save memory."""
    seq_len: int = 128
    """Tokens per sequence; also the longest text that the model is trained for."""
    vocab_size: int = 1024
    """Vocabulary size of the tokenizer that is learned from the text."""
    hidden_size: int = 128
    """Width of the model."""
    layers: int = 4
    """Transformer layers."""
    heads: int = 4
    """Attention (query) heads, an even number: each key/value head is shared by two."""
    optimizer: OptimizerName = "muon"
    """muon: Muon for the matrices of the layers, AdamW for the rest; needs half the steps. adamw: AdamW for all."""
    learning_rate: float = 4e-3
    """Peak learning rate; it decays along a cosine to a tenth of this."""
    warmup: int = 45
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.5
    """Weight decay of matrices; norms and biases have none."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradient; a larger one is scaled down to it."""
    eval_every: int = 144
    """Steps between validations; each also writes a sample text to log.jsonl."""
    save_every: int = 144
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep."""
    seed: int = 0
    """Random seed for initial weights and batches."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on: cpu, cuda, cuda:1, ..."""
    dtype: Dtype = "float32"
    """Autocast dtype of matrix products; weights and optimizer state stay float32."""
    compile: Compile = "auto"
    """Use torch.compile. auto: if a compiler is found and the run is long enough to gain from it."""
    activation_checkpointing: bool = False
    """Activation checkpointing: recompute activations in the backward pass, for less memory and a third more time."""
    parallel: Parallel = "auto"
    """Under torchrun. ddp: a copy of the model per process; fsdp: a shard of it. auto: fsdp from 500 M parameters."""
    json: bool = False
    """Print the result as one line of JSON, too, as is done whenever the output is not a terminal."""

    def __post_init__(self) -> None:
        whole = (
            "steps",
            "batch_size",
            "grad_accum_steps",
            "eval_every",
            "save_every",
            "keep_checkpoints",
            "warmup",
            "layers",
            "heads",
        )
        for name in whole:
            check(flag(name), getattr(self, name), "1 or more", lambda v: v >= 1)
        check("--overwrite", self.overwrite, "left out together with --resume", lambda v: not (v and self.resume))
        check("--seed", self.seed, "0 or more", lambda v: v >= 0)
        check("--num-workers", self.num_workers, "1 or more", lambda v: v is None or v >= 1)
        check("--seq-len", self.seq_len, "2 or more: all tokens but the first are predicted", lambda v: v >= 2)
        check("--heads", self.heads, "an even number", lambda v: v % 2 == 0)
        check("--val-fraction", self.val_fraction, "a fraction between 0 and 1", lambda v: 0 < v < 1)
        for name in ("learning_rate", "max_grad_norm"):
            check(flag(name), getattr(self, name), "a positive number", lambda v: 0 < v < math.inf)
        check("--device", self.device, "a device that torch can use", is_usable)
        check("--weight-decay", self.weight_decay, "0 or more", lambda v: 0 <= v < math.inf)
