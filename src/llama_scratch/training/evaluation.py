"""Validation: bits per byte of the held-out text, and a sample of what the model writes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.data import Corpus, all_sequences
from llama_scratch.generate import generate
from llama_scratch.model.loss import IGNORED, next_token_loss
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.training.distributed import Distributed


@contextmanager
def evaluating(model: Llama) -> Iterator[None]:
    """Switch gradients and dropout off, and do not recompile for shapes that training does not use."""
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        yield
    model.train(was_training)


def bits_per_byte(model: Llama, corpus: Corpus, batch: int, context: int, team: Distributed) -> float:
    """Compute validation bits per byte: Σ −log₂ p over all tokens divided by the byte length, comparable across
    tokenizers.

    `batch` sequences are evaluated at a time, over all ranks.
    """
    nats = torch.zeros((), dtype=torch.float64, device=team.device)
    for inputs, labels in all_sequences(corpus.validation, batch, context):
        missing = (0, 0, 0, -len(inputs) % team.size)  # rows, so that every rank gets as many
        local_inputs = team.local_rows(F.pad(inputs, missing))
        local_labels = team.local_rows(F.pad(labels, missing, value=IGNORED))
        nats += total_nats(model, local_inputs, local_labels)
    return float(team.all_reduce_sum(nats)) / math.log(2) / len(corpus.validation_text)


def total_nats(model: Llama, inputs: Tensor, labels: Tensor) -> float:
    """Sum the loss over all targets."""
    return next_token_loss(model(inputs), labels, count=1).item()


def sample(model: Llama, tokenizer: Tokenizer, length: int, seed: int, device: str) -> str:
    """Generate a text of `length` tokens from the start of a document."""
    start = tokenizer.starts or [tokenizer.eos_id or 0]
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.tensor([start], device=device)
    ids = generate(model, tokens, length - len(start), temperature=0.7, stop_ids=[], generator=generator, fast=False)
    return tokenizer.decode(ids[0].tolist())
