"""Trains a Llama on text: `python -m llama_scratch.train [--data PATH ...]`.

Text -> SentencePiece tokenizer -> random windows -> AdamW -> a directory that Hugging Face transformers opens.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from llama_scratch import data, plot
from llama_scratch.command_line import flag, is_usable
from llama_scratch.config import LlamaConfig, Tokens
from llama_scratch.config_rules import ConfigError, check
from llama_scratch.generate import generate
from llama_scratch.journal import Journal, Row
from llama_scratch.llama import Llama
from llama_scratch.loss import IGNORED, next_token_loss
from llama_scratch.tokenizer import Tokenizer, TokenizerError


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on. Raises ConfigError, naming the flag, for a value that cannot be."""

    data: tuple[Path, ...] = ()
    """Text files, or folders of them; none: the text that ships with Python."""
    out: Path = Path("out")
    """Where the checkpoint, log.jsonl and loss.png go."""
    steps: int = 800
    """Optimiser steps."""
    batch_size: int = 8
    """Windows a step."""
    context: int = 128
    """Tokens a window, and the longest text that the model will have seen."""
    vocab_size: int = 512
    """Pieces of the tokenizer."""
    hidden_size: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Query heads; every two share a key/value head."""
    learning_rate: float = 4e-3
    """The highest; a tenth of it is left at the end."""
    warmup: int = 50
    """Steps of rising learning rate."""
    weight_decay: float = 0.1
    """Of matrices; norms and biases are not decayed."""
    clip: float = 1.0
    """The largest norm of all gradients together."""
    held_out: float = 0.1
    """Share of the text, its end, that is validated on."""
    eval_every: int = 150
    """Steps between validations."""
    seed: int = 0
    """Of weights and windows."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "warmup", "layers", "heads"):
            check(flag(name), getattr(self, name), "1 or more", lambda v: v >= 1)
        check("--context", self.context, "2 or more: a window predicts all its tokens but the first", lambda v: v >= 2)
        check("--heads", self.heads, "an even number", lambda v: v % 2 == 0)
        check("--held-out", self.held_out, "a share between 0 and 1", lambda v: 0 < v < 1)
        for name in ("learning_rate", "clip"):
            check(flag(name), getattr(self, name), "a positive number", lambda v: 0 < v < math.inf)
        check("--device", self.device, "a device that torch can use", is_usable)
        check("--weight-decay", self.weight_decay, "0 or more", lambda v: 0 <= v < math.inf)


def model_config(config: TrainConfig, tokenizer: Tokenizer) -> LlamaConfig:
    """The Llama of a run: its proportions follow from the width, as in Touvron et al. 2023, 2.2."""
    return LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=math.ceil(config.hidden_size * 8 / 3 / 32) * 32,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads // 2,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) that decays matrices and leaves norms and biases alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Of step 0, 1, …: rises evenly to the highest at the end of the warm-up, then falls along a half cosine to a tenth
    of it at the last step (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step + 1 - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * min(done, 1))) / 2)


@dataclass(frozen=True)
class Text:
    """The tokenizer, learned from the training text alone, and both parts of the text as tokens."""

    tokenizer: Tokenizer
    training: Tensor
    validation: Tensor
    validation_bytes: bytes


def prepare(config: TrainConfig) -> Text:
    """Reads, splits and tokenizes. Raises DataError or TokenizerError, saying what to do."""
    training, validation = data.hold_out(data.read_documents(config.data), config.held_out)
    try:
        tokenizer = Tokenizer.train(training, config.vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{error}; try another --vocab-size, or more text") from None
    text = Text(
        tokenizer,
        data.tokenize(training, tokenizer),
        data.tokenize(validation, tokenizer),
        "".join(validation).encode(),
    )
    for part, tokens in (("training", text.training), ("validation", text.validation)):
        if len(tokens) < config.context:
            found = f"{len(tokens)} tokens of {part} text"
            raise data.DataError(f"{found} are fewer than --context {config.context}: give more text")
    return text


def take_step(model: Llama, optimizer: torch.optim.Optimizer, batch: Tokens, rate: float, clip: float) -> Tensor:
    """One step on one batch of windows; returns the loss, detached."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = next_token_loss(model(batch), batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def bits_per_byte(model: Llama, text: Text, config: TrainConfig) -> float:
    """What the model needs to write the validation text down: Σ −log₂ p of its tokens, per byte, so that tokenizers
    compare.
    """
    was_training = model.training
    model.eval()
    nats = 0.0
    for inputs, labels in data.all_windows(text.validation, 4 * config.batch_size, config.context):
        loss = next_token_loss(model(inputs.to(config.device)), labels.to(config.device))
        nats += loss.item() * int((labels[:, 1:] != IGNORED).sum())
    model.train(was_training)
    return nats / math.log(2) / len(text.validation_bytes)


def train(config: TrainConfig) -> list[Row]:
    """Trains, saves to `config.out`, and returns the history, the rows of log.jsonl.

    A row has step, loss (nats a token, the mean since the row before), learning_rate, tokens_per_second, seconds and,
    every `eval_every` steps and at the end, validation_bits_per_byte. Ctrl-C stops early and saves what there is.
    Raises DataError, TokenizerError or ConfigError before anything is written.
    """
    torch.manual_seed(config.seed)
    windows = torch.Generator().manual_seed(config.seed)
    text = prepare(config)
    model = Llama(model_config(config, text.tokenizer), sdpa=True).to(config.device).train()
    optimizer = make_optimizer(model, config)
    config.out.mkdir(parents=True, exist_ok=True)
    with Journal(config.out / "log.jsonl", config.steps, config.batch_size * config.context) as journal:
        size = sum(p.numel() for p in model.parameters()) / 1e6
        journal.say(f"{size:.2f} M parameters, {len(text.training):,} tokens of text, on {config.device}")
        try:
            for step in range(config.steps):
                batch = data.random_windows(text.training, config.batch_size, config.context, windows)
                rate = learning_rate(step, config)
                loss = take_step(model, optimizer, batch.to(config.device), rate, config.clip)
                due = (step + 1) % config.eval_every == 0 or step + 1 == config.steps
                journal.record(step, loss, rate, bits_per_byte(model, text, config) if due else None)
        except KeyboardInterrupt:
            journal.say(f"interrupted: saving what there is to {config.out}")
    model.save_pretrained(config.out)
    text.tokenizer.save_pretrained(config.out)
    plot.loss_curve(journal.history, config.out / "loss.png")
    return journal.history


def sample(config: TrainConfig) -> str:
    """Text that the saved model writes from nothing but BOS, as long as the context that it was trained on."""
    model = Llama.from_pretrained(config.out, device=config.device)
    tokenizer = Tokenizer.from_pretrained(config.out)
    start = torch.tensor([tokenizer.encode("", bos=True)], device=config.device)
    dice = torch.Generator(config.device).manual_seed(config.seed)
    ids = generate(model, start, config.context - 1, temperature=0.7, stop_ids=[], generator=dice)
    return tokenizer.decode(ids[0].tolist())


def summary(config: TrainConfig, history: list[Row]) -> str:
    """The end of a run in a few lines: how well, against what, how long, and what can be done with it."""
    _, validation = data.hold_out(data.read_documents(config.data), config.held_out)
    text = "".join(validation).encode()
    validated = [row["validation_bits_per_byte"] for row in history if "validation_bits_per_byte" in row]
    last = history[-1]
    return "\n".join(
        (
            f"validation  {validated[-1]:.3f} bits/byte" if validated else "validation  none before the interruption",
            f"            {data.unigram_bits_per_byte(text):.3f} is the entropy of its single bytes, "
            f"{data.xz_bits_per_byte(text):.3f} what xz -9 makes of it",
            f"training    {last['step']} steps in {last['seconds']:.0f} s, {last['tokens_per_second']:,} tokens/s, "
            f"last loss {last['loss']:.3f} nats/token (torch {torch.__version__})",
            f"saved       {config.out}/ as a Hugging Face checkpoint, log.jsonl"
            + (" and loss.png" if (config.out / "loss.png").exists() else "; loss.png needs matplotlib"),
            f'open it     llama_scratch.Llama.from_pretrained("{config.out}") or '
            f'transformers.AutoModelForCausalLM.from_pretrained("{config.out}")',
        )
    )


def main() -> None:
    """The command line: every field of TrainConfig is a flag."""
    try:
        config = tyro.cli(TrainConfig, prog="python -m llama_scratch.train", description=__doc__)
        history = train(config)
    except (ConfigError, data.DataError, TokenizerError, OSError) as error:
        sys.exit(f"error: {error}")
    if history:
        print(f"\n{sample(config)}\n\n{summary(config, history)}")


if __name__ == "__main__":
    main()
