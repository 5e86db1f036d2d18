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
from llama_scratch.training.checkpoints import TrainState
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import Distributed, recompute_activations, whole_tensor
from llama_scratch.training.evaluation import bits_per_byte, evaluating, sample
from llama_scratch.training.interruption import StopSignal
from llama_scratch.training.memory import keep_memory
from llama_scratch.training.metrics import LOG, VALIDATION, MetricsLogger, Row, read_log
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import learning_rate, make_optimizers
from llama_scratch.training.setup import (
    check_batch,
    from_json,
    make_model,
    read_corpus,
    resume_command,
    resume_point,
)
from llama_scratch.training.speed import RunUnits, is_compiled, measure_units

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
    with Distributed(config.device) as team, checkpoints.sole_run(config.out, team):
        if setup.is_done(config):
            if team.is_main_process:
                print(f"{config.out}/ holds this run already, at its end; --overwrite trains it anew")
            return read_log(config.out / LOG, config.steps)
        run = set_up(config, team)
        with (
            explain_disk_errors(config),
            MetricsLogger(config.out, run.scale, run.start, team.is_main_process) as journal,
        ):
            journal.print(report.introduction(config, run.corpus, run.trained.model, run.scale, team, run.start))
            with StopSignal() as interruption:
                run_steps(run, journal, interruption)
            save_result(run, journal.history)
        return journal.history


@dataclass(frozen=True)
class Run:
    """What the loop works on. `engine` is the objective, spread over the team; `start` steps are done already."""

    config: TrainConfig
    team: Distributed
    corpus: Corpus
    trained: TrainState
    engine: nn.Module
    scale: RunUnits
    start: int


def set_up(config: TrainConfig, team: Distributed) -> Run:
    """Text, model and optimiser, new or as they were."""
    start, checkpoint = resume_point(config)
    check_batch(config, team)
    corpus = read_corpus(config, team, start)
    torch.manual_seed(config.seed)
    model = make_model(config, corpus.tokenizer, checkpoint).to(team.device).train()
    scale = measure_units(model, corpus, config, team)
    if config.activation_checkpointing:
        recompute_activations(model)
    objective = Objective(model, is_compiled(config.compile, scale, team.device))
    engine = team.parallelize(objective, config.parallel, config.dtype)
    trained = TrainState(model, make_optimizers(engine, config.optimizer, config.weight_decay), corpus.tokenizer)
    torch.manual_seed(config.seed + team.rank)  # dropout: the weights are alike in all processes, their windows are not
    if checkpoint is not None:
        checkpoints.restore(checkpoint, trained, team)
    return Run(config, team, corpus, trained, engine, scale, start)


def run_steps(run: Run, journal: MetricsLogger, interruption: StopSignal) -> None:
    """The loop."""
    config, team = run.config, run.team
    keep_memory()
    done = run.start
    while done < config.steps and not team.any(interruption.received):
        batch = random_windows(run.corpus.training, config.batch_size, config.seq_len, config.seed, done)
        rate = learning_rate(done, config.learning_rate, config.warmup, config.steps)
        loss, norm = take_step(run.engine, run.trained.optimizers, batch, rate, config, team)
        if not (loss.isfinite() and norm.isfinite()):
            raise divergence_error(config, batch, done, loss, norm)
        done += 1
        evaluates = is_due(done, config.eval_every, config)
        saves = is_due(done, config.save_every, config)
        with journal.excluded_from_timing():
            found = evaluate(run, done) if evaluates else {}
        journal.record(loss, norm, rate, found, force=saves or interruption.received)
        with journal.excluded_from_timing():
            if saves:
                checkpoints.save(config.out, done, run.trained, team, config.keep_checkpoints)
    if done < config.steps:
        checkpoints.save(config.out, done, run.trained, team, config.keep_checkpoints)
        journal.print(f"stopped after step {done}; to go on: {resume_command(config)}")


def take_step(
    engine: nn.Module,
    optimizers: Sequence[Optimizer],
    batch: Tokens,
    rate: float,
    config: TrainConfig,
    team: Distributed,
) -> tuple[Tensor, Tensor]:
    """One step on the windows of all processes; returns the loss in nats a token and the norm of the gradients before
    clipping. Every token of the batch counts alike, in whatever parts it is computed. Where loss or norm is no finite
    number the weights stay as they are.
    """
    targets = batch[:, 1:].numel()
    loss = torch.zeros((), device=team.device)
    engine.zero_grad()
    parts = team.local_rows(batch).chunk(config.grad_accum_steps)
    for number, part in enumerate(parts, start=1):
        with team.synchronised(engine, number == len(parts)):
            with team.autocast(config.dtype):
                nats = engine(part, targets)
            (nats * team.size).backward()  # processes average their gradients
            loss += nats.detach()
    norm = whole_tensor(nn.utils.clip_grad_norm_(engine.parameters(), config.max_grad_norm))
    loss = team.all_reduce_sum(loss)
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
        bits = bits_per_byte(model, run.corpus, 4 * config.batch_size, config.seq_len, team)
        text = sample(model, run.corpus.tokenizer, config.seq_len, config.seed + done, team.device)
    return {VALIDATION: bits, "sample": text}


def save_result(run: Run, history: list[Row]) -> None:
    """The model as a Hugging Face directory, and how the run went as a picture."""
    whole = run.team.gather_model(run.trained.model)
    if run.team.is_main_process:
        whole.save_pretrained(run.config.out)
        run.trained.tokenizer.save_pretrained(run.config.out)
        plot.loss_curve(history, run.config.out / "loss.png", report.baselines(run.config))
        if history and history[-1]["step"] == run.config.steps:
            setup.finish(run.config)
    run.team.barrier()


@contextmanager
def explain_disk_errors(config: TrainConfig) -> Iterator[None]:
    """Says what is left of a run whose disk is full."""
    try:
        yield
    except OSError as error:
        good = max(checkpoints.saved_steps(config.out).items(), default=None)
        left = f"the checkpoint {good[1]} is whole" if good else "there is no checkpoint yet"
        message = f"{config.out} cannot be written: {error}; {left}; make room, then {resume_command(config)}"
        raise TrainingError(message) from error


def divergence_error(config: TrainConfig, batch: Tokens, done: int, loss: Tensor, norm: Tensor) -> TrainingError:
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
        default = TrainConfig(**from_json(told["config"]))
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
    if history and Distributed(config.device).is_main_process:
        print(f"\n{report.summary(config, history)}")
        if config.json or not sys.stdout.isatty():  # for the program that reads it
            print(json.dumps(report.numbers(config, history)))


if __name__ == "__main__":
    main()
