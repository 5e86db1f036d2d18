"""Trains a Llama on text: `python -m llama_scratch.train [--data PATH ...]`.

Text -> SentencePiece tokenizer -> random windows -> AdamW -> a directory that Hugging Face transformers opens. On
several devices: `torchrun --nproc-per-node N -m llama_scratch.train`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.command_line import Parser, flag, is_usable, parse, refuse, suggestion
from llama_scratch.data import Corpus, DataError, random_windows
from llama_scratch.model.config import Tokens
from llama_scratch.model.config_rules import ConfigError, check
from llama_scratch.tokenizer import TokenizerError
from llama_scratch.training import checkpoints, plot, presets, report, setup
from llama_scratch.training.checkpoints import Trained
from llama_scratch.training.distributed import Dtype, Parallel, Team, recompute_activations, whole_tensor
from llama_scratch.training.evaluation import bits_per_byte, evaluating, sample
from llama_scratch.training.interruption import Interruption
from llama_scratch.training.memory import keep_memory
from llama_scratch.training.metrics import LOG, VALIDATION, Journal, Row, read_log
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import Kind, learning_rate, make_optimizers
from llama_scratch.training.presets import Preset
from llama_scratch.training.setup import (
    check_batch,
    from_settings,
    how_to_go_on,
    make_model,
    read_corpus,
    where_to_start,
)
from llama_scratch.training.speed import Compile, Scale, is_compiled, measure

PROGRAM = "python -m llama_scratch.train"


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
    tokens: Path | None = None
    """Directory for the tokenised text, which several runs may share (default: OUT/tokens)."""
    held_out: float = 0.1
    """Fraction of the text, taken from its end, that is used for validation only; at most a million characters."""
    processes: int | None = None
    """Worker processes for tokenising (default: one per core)."""
    steps: int = 720
    """Optimizer steps."""
    batch_size: int = 8
    """Sequences per optimizer step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Gradient accumulation: split each process's share of the batch into this many parts, to save memory."""
    context: int = 128
    """Tokens per sequence; also the longest text that the model is trained for."""
    vocab_size: int = 1024
    """Vocabulary size of the tokenizer that is learned from the text."""
    hidden_size: int = 128
    """Width of the model."""
    layers: int = 4
    """Transformer layers."""
    heads: int = 4
    """Attention (query) heads, an even number: each key/value head is shared by two."""
    optimizer: Kind = "muon"
    """muon: Muon for the matrices of the layers, AdamW for the rest; needs half the steps. adamw: AdamW for all."""
    learning_rate: float = 4e-3
    """Peak learning rate; it decays along a cosine to a tenth of this."""
    warmup: int = 45
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.5
    """Weight decay of matrices; norms and biases have none."""
    clip: float = 1.0
    """Maximum norm of the gradient; a larger one is scaled down to it."""
    eval_every: int = 144
    """Steps between validations; each also writes a sample text to log.jsonl."""
    save_every: int = 144
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the latest checkpoints to keep."""
    seed: int = 0
    """Random seed for initial weights and batches."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device to train on: cpu, cuda, cuda:1, ..."""
    dtype: Dtype = "float32"
    """Autocast dtype of matrix products; weights and optimizer state stay float32."""
    compile: Compile = "auto"
    """Use torch.compile. auto: if a compiler is found and the run is long enough to gain from it."""
    recompute: bool = False
    """Activation checkpointing: recompute activations in the backward pass, for less memory and a third more time."""
    parallel: Parallel = "auto"
    """Under torchrun. ddp: a copy of the model per process; fsdp: a shard of it. auto: fsdp from 500 M parameters."""
    json: bool = False
    """Print the result as one line of JSON, too, as is done whenever the output is not a terminal."""

    def __post_init__(self) -> None:
        whole = ("steps", "batch_size", "accumulate", "eval_every", "save_every", "keep", "warmup", "layers", "heads")
        for name in whole:
            check(flag(name), getattr(self, name), "1 or more", lambda v: v >= 1)
        check("--overwrite", self.overwrite, "left out beside --resume", lambda v: not (v and self.resume))
        check("--seed", self.seed, "0 or more", lambda v: v >= 0)
        check("--processes", self.processes, "1 or more", lambda v: v is None or v >= 1)
        check("--context", self.context, "2 or more: a window predicts all its tokens but the first", lambda v: v >= 2)
        check("--heads", self.heads, "an even number", lambda v: v % 2 == 0)
        check("--held-out", self.held_out, "a share between 0 and 1", lambda v: 0 < v < 1)
        for name in ("learning_rate", "clip"):
            check(flag(name), getattr(self, name), "a positive number", lambda v: 0 < v < math.inf)
        check("--device", self.device, "a device that torch can use", is_usable)
        check("--weight-decay", self.weight_decay, "0 or more", lambda v: 0 <= v < math.inf)


class TrainingError(Exception):
    """A run that cannot go on; the message says what is left of it, and how to go on."""


def train(config: TrainConfig) -> list[Row]:
    """Trains, saves to `config.out`, and returns the history, the rows of log.jsonl.

    A row has step, loss (nats a token, the mean since the row before), bits_per_byte (the same, by the bytes that a
    token has on average), learning_rate, gradient_norm, tokens_per_second, share_of_peak, seconds and, every
    `eval_every` steps and at the end, validation_bits_per_byte and a sample. Ctrl-C stops after the step and saves.
    From the first step on the process keeps the memory that it frees (training/memory.py). Where `config.out` holds
    this very run at its end, it says so and returns its history. Raises DataError, TokenizerError, CheckpointError or
    ConfigError before the first step, and TrainingError.
    """
    with Team(config.device) as team, checkpoints.sole_run(config.out, team):
        if setup.is_done(config):
            if team.is_first:
                print(f"{config.out}/ holds this run already, at its end; --overwrite trains it anew")
            return read_log(config.out / LOG, config.steps)
        run = set_up(config, team)
        with writing(config), Journal(config.out, run.scale, run.start, team.is_first) as journal:
            journal.say(report.introduction(config, run.corpus, run.trained.model, run.scale, team, run.start))
            with Interruption() as interruption:
                run_steps(run, journal, interruption)
            leave(run, journal.history)
        return journal.history


@dataclass(frozen=True)
class Run:
    """What the loop works on. `engine` is the objective, spread over the team; `start` steps are done already."""

    config: TrainConfig
    team: Team
    corpus: Corpus
    trained: Trained
    engine: nn.Module
    scale: Scale
    start: int


def set_up(config: TrainConfig, team: Team) -> Run:
    """Text, model and optimiser, new or as they were."""
    start, checkpoint = where_to_start(config)
    check_batch(config, team)
    corpus = read_corpus(config, team, start)
    torch.manual_seed(config.seed)
    model = make_model(config, corpus.tokenizer, checkpoint).to(team.device).train()
    scale = measure(model, corpus, config, team)
    if config.recompute:
        recompute_activations(model)
    objective = Objective(model, is_compiled(config.compile, scale, team.device))
    engine = team.spread(objective, config.parallel, config.dtype)
    trained = Trained(model, make_optimizers(engine, config.optimizer, config.weight_decay), corpus.tokenizer)
    torch.manual_seed(config.seed + team.rank)  # dropout: the weights are alike in all processes, their windows are not
    if checkpoint is not None:
        checkpoints.restore(checkpoint, trained, team)
    return Run(config, team, corpus, trained, engine, scale, start)


def run_steps(run: Run, journal: Journal, interruption: Interruption) -> None:
    """The loop."""
    config, team = run.config, run.team
    keep_memory()
    done = run.start
    while done < config.steps and not team.any(interruption.came):
        batch = random_windows(run.corpus.training, config.batch_size, config.context, config.seed, done)
        rate = learning_rate(done, config.learning_rate, config.warmup, config.steps)
        loss, norm = take_step(run.engine, run.trained.optimizers, batch, rate, config, team)
        if not (loss.isfinite() and norm.isfinite()):
            raise diverged(config, batch, done, loss, norm)
        done += 1
        evaluates, saves = (is_due(done, every, config) for every in (config.eval_every, config.save_every))
        with journal.apart():
            found = evaluate(run, done) if evaluates else {}
        journal.record(loss, norm, rate, found, force=saves or interruption.came)
        with journal.apart():
            if saves:
                checkpoints.save(config.out, done, run.trained, team, config.keep)
    if done < config.steps:
        checkpoints.save(config.out, done, run.trained, team, config.keep)
        journal.say(f"stopped after step {done}; to go on: {how_to_go_on(config)}")


def take_step(
    engine: nn.Module, optimizers: Sequence[Optimizer], batch: Tokens, rate: float, config: TrainConfig, team: Team
) -> tuple[Tensor, Tensor]:
    """One step on the windows of all processes; returns the loss in nats a token and the norm of the gradients before
    clipping. Every token of the batch counts alike, in whatever parts it is computed. Where loss or norm is no finite
    number the weights stay as they are.
    """
    targets = batch[:, 1:].numel()
    loss = torch.zeros((), device=team.device)
    engine.zero_grad()
    parts = team.part(batch).chunk(config.accumulate)
    for number, part in enumerate(parts, start=1):
        with team.synchronised(engine, number == len(parts)):
            with team.autocast(config.dtype):
                nats = engine(part, targets)
            (nats * team.size).backward()  # processes average their gradients
            loss += nats.detach()
    norm = whole_tensor(nn.utils.clip_grad_norm_(engine.parameters(), config.clip))
    loss = team.sum(loss)
    if loss.isfinite() and norm.isfinite():
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    return loss, norm


def is_due(done: int, every: int, config: TrainConfig) -> bool:
    """After every so many steps, and at the end."""
    return done % every == 0 or done == config.steps


def evaluate(run: Run, done: int) -> Row:
    """Bits per byte of the text that is held out, and a sample."""
    config, team, model = run.config, run.team, run.trained.model
    with evaluating(model), team.autocast(config.dtype):
        bits = bits_per_byte(model, run.corpus, 4 * config.batch_size, config.context, team)
        text = sample(model, run.corpus.tokenizer, config.context, config.seed + done, team.device)
    return {VALIDATION: bits, "sample": text}


def leave(run: Run, history: list[Row]) -> None:
    """The model as a Hugging Face directory, and how the run went as a picture."""
    whole = run.team.whole(run.trained.model)
    if run.team.is_first:
        whole.save_pretrained(run.config.out)
        run.trained.tokenizer.save_pretrained(run.config.out)
        plot.loss_curve(history, run.config.out / "loss.png", report.baselines(run.config))
        if history and history[-1]["step"] == run.config.steps:
            setup.finish(run.config)
    run.team.wait()


@contextmanager
def writing(config: TrainConfig) -> Iterator[None]:
    """Says what is left of a run whose disk is full."""
    try:
        yield
    except OSError as error:
        good = max(checkpoints.saved_steps(config.out).items(), default=None)
        left = f"the checkpoint {good[1]} is whole" if good else "there is no checkpoint yet"
        message = f"{config.out} cannot be written: {error}; {left}; make room, then {how_to_go_on(config)}"
        raise TrainingError(message) from error


def diverged(config: TrainConfig, batch: Tokens, done: int, loss: Tensor, norm: Tensor) -> TrainingError:
    """Keeps the batch on which the loss or its gradient is no number."""
    path = config.out / f"batch-{done + 1}.safetensors"
    save_file({"tokens": batch}, path)
    return TrainingError(
        f"step {done + 1} has loss {loss.item()} and gradients of norm {norm.item()}; its windows are in "
        f"{path}; the weights before it were finite; try a lower --learning-rate or a longer --warmup"
    )


def read_command_line(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Flags over what the run in --out was told, with --resume, or over what --preset says."""
    first = Parser(PROGRAM, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=TrainConfig.preset)
    first.add_argument("--out", type=Path, default=TrainConfig.out)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.preset not in presets.SIZES:
        near = suggestion(known.preset, presets.SIZES)
        refuse(f"--preset is {known.preset!r}, expected one of {', '.join(presets.SIZES)}{near}", PROGRAM)
    default = TrainConfig(**presets.settings(known.preset))
    if known.resume and (told := checkpoints.recorded(known.out)) is not None:
        default = TrainConfig(**from_settings(told["config"]))
    return parse(TrainConfig, PROGRAM, __doc__, arguments, default)


def main() -> None:
    """The command line: every field of TrainConfig is a flag."""
    try:
        config = read_command_line()
        history = train(config)
    except (ConfigError, DataError, TokenizerError, CheckpointError, TrainingError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # between two steps it is not raised, but taken for a wish to save
        sys.exit("interrupted; the same command starts again, or goes on by --resume where a checkpoint was saved")
    if history and Team(config.device).is_first:
        print(f"\n{report.summary(config, history)}")
        if config.json or not sys.stdout.isatty():  # for the program that reads it
            print(json.dumps(report.numbers(config, history)))


if __name__ == "__main__":
    main()
