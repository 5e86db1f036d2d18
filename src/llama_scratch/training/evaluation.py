"""What the model is worth on the text that is held out, and what it writes meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.data import Corpus, all_windows
from llama_scratch.generate import generate
from llama_scratch.model.loss import IGNORED, next_token_loss
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.training.distributed import Distributed


@contextmanager
def evaluating(model: Llama) -> Iterator[None]:
    """Without gradients and dropout, and without compiling anew for shapes that training has not seen."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        yield
    model.train(was_training)


def bits_per_byte(model: Llama, corpus: Corpus, batch: int, context: int, team: Distributed) -> float:
    """What the model needs to write the text that is held out down: Σ −log₂ p of its tokens, per byte, so that
    tokenizers compare. `batch` windows at a time, a multiple of the team.
    """
    nats = torch.zeros((), dtype=torch.float64, device=team.device)
    for inputs, labels in all_windows(corpus.validation, batch, context):
        missing = (0, 0, 0, -len(inputs) % team.size)
        part = team.local_rows(F.pad(inputs, missing)), team.local_rows(F.pad(labels, missing, value=IGNORED))
        nats += nats_of(model, *part)
    return float(team.all_reduce_sum(nats)) / math.log(2) / len(corpus.validation_text)


def nats_of(model: Llama, inputs: Tensor, labels: Tensor) -> float:
    """Of all targets together."""
    return next_token_loss(model(inputs), labels, count=1).item()


def sample(model: Llama, tokenizer: Tokenizer, length: int, seed: int, device: str) -> str:
    """Text of so many tokens that the model writes from nothing but the start of a document."""
    start = tokenizer.starts or [tokenizer.eos_id or 0]
    dice = torch.Generator(device).manual_seed(seed)
    tokens = torch.tensor([start], device=device)
    ids = generate(model, tokens, length - len(start), temperature=0.7, stop_ids=[], generator=dice, fast=False)
    return tokenizer.decode(ids[0].tolist())
