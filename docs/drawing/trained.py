"""The small model that figures of a trained model are drawn from: the training command's own defaults."""

from __future__ import annotations

import io
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from llama_scratch import Llama, Tokenizer
from llama_scratch.train import TrainConfig, train
from llama_scratch.training.metrics import Metrics
from llama_scratch.training.report import baselines


@dataclass(frozen=True)
class Run:
    history: list[Metrics]
    config: TrainConfig
    tokenizer: Tokenizer
    model: Llama
    fresh: Llama  # as it was before the first step
    baselines: dict[str, float]  # bits a byte of the held-out text without a model


@cache
def trained() -> Run:
    """Trains once, in about a minute."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        config = TrainConfig(out=Path(folder), device="cpu")
        history = train(config)
        without = baselines(config)
        model = Llama.from_pretrained(config.out).eval()
        tokenizer = Tokenizer.from_pretrained(config.out)
    torch.manual_seed(config.seed)
    return Run(history, config, tokenizer, model, Llama(model.config).eval(), without)
