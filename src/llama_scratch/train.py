"""Trains a Llama on text: `python -m llama_scratch.train [--data PATH ...]`.

Text -> SentencePiece tokenizer -> random windows -> AdamW -> a directory that Hugging Face transformers opens. On
several devices: `torchrun --nproc-per-node N -m llama_scratch.train`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llama_scratch.command_line import Parser, parse, refuse, suggestion
from llama_scratch.data import Corpus, random_windows
from llama_scratch.errors import LlamaScratchError
from llama_scratch.model.config import Tokens
from llama_scratch.training import checkpoints, plot, presets, report, setup
from llama_scratch.training.checkpoints import Trained
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import Team, recompute_activations, whole_tensor
from llama_scratch.training.evaluation import bits_per_byte, evaluating, sample
from llama_scratch.training.interruption import Interruption
from llama_scratch.training.memory import keep_memory
from llama_scratch.training.metrics import LOG, VALIDATION, Journal, Row, read_log
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import learning_rate, make_optimizers
from llama_scratch.training.setup import (
    check_batch,
    from_settings,
    how_to_go_on,
    make_model,
    read_corpus,
    where_to_start,
)
from llama_scratch.training.speed import Scale, is_compiled, measure

PROGRAM = "python -m llama_scratch.train"


class TrainingError(LlamaScratchError):
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
    except (LlamaScratchError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # between two steps it is not raised, but taken for a wish to save
        sys.exit("interrupted; the same command starts again, or goes on by --resume where a checkpoint was saved")
    if history and Team(config.device).is_first:
        print(f"\n{report.summary(config, history)}")
        if config.json or not sys.stdout.isatty():  # for the program that reads it
            print(json.dumps(report.numbers(config, history)))


if __name__ == "__main__":
    main()
