"""Train a Llama on text: `python -m llama_scratch.train [--data PATH ...]`.

Text -> SentencePiece tokenizer -> random sequences -> Muon or AdamW -> a directory that transformers opens. On several
devices: `torchrun --nproc-per-node N -m llama_scratch.train`.
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

from llama_scratch.command_line import Parser, one_line_errors, parse, refuse, suggestion
from llama_scratch.data import Corpus, random_sequences
from llama_scratch.errors import LlamaScratchError
from llama_scratch.model.config import Tokens
from llama_scratch.training import checkpoints, plot, presets, report, setup
from llama_scratch.training.checkpoints import TrainState
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import Distributed, is_main_process, recompute_activations, whole_tensor
from llama_scratch.training.evaluation import bits_per_byte, evaluating, sample
from llama_scratch.training.interruption import StopSignal
from llama_scratch.training.memory import keep_memory
from llama_scratch.training.metrics import LOG, Metrics, MetricsLogger, Validation, read_log
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
    """A run that cannot continue; the message says what is left of it, and how to resume."""


def train(config: TrainConfig) -> list[Metrics]:
    """Train, save to `config.out`, and return the history, the rows of log.jsonl.

    Every `eval_every` steps and at the end a row has a validation. Ctrl-C stops after the step and saves. From the
    first step on the process keeps the memory that it frees (training/memory.py). If `config.out` holds this very run,
    finished, print so and return its history. Raises DataError, TokenizerError, CheckpointError or ConfigError before
    the first step, and TrainingError.
    """
    with Distributed(config.device) as team, checkpoints.sole_run(config.out, team):
        if setup.is_done(config):
            if team.is_main_process:
                print(f"{config.out}/ holds this run already, finished; --overwrite trains it again")
            return read_log(config.out / LOG, config.steps)
        run = set_up(config, team)
        with (
            explain_disk_errors(config),
            MetricsLogger(config.out, run.units, run.start, team.is_main_process) as logger,
        ):
            logger.print(report.introduction(config, run.corpus, run.state.model, run.units, team, run.start))
            with StopSignal() as stop_signal:
                run_steps(run, logger, stop_signal)
            save_result(run, logger.history)
        return logger.history


@dataclass(frozen=True)
class Run:
    """What the loop works on. `engine` is the objective, parallelised; `start` steps are done already."""

    config: TrainConfig
    team: Distributed
    corpus: Corpus
    state: TrainState
    engine: nn.Module
    units: RunUnits
    start: int


def set_up(config: TrainConfig, team: Distributed) -> Run:
    """Make text, model and optimizer, new or restored."""
    start, checkpoint = resume_point(config)
    check_batch(config, team)
    corpus = read_corpus(config, team, start)
    torch.manual_seed(config.seed)
    model = make_model(config, corpus.tokenizer, checkpoint).to(team.device).train()
    units = measure_units(model, corpus, config, team)
    if config.activation_checkpointing:
        recompute_activations(model)
    objective = Objective(model, is_compiled(config.compile, units, team.device))
    engine = team.parallelize(objective, config.parallel, config.dtype)
    state = TrainState(model, make_optimizers(engine, config.optimizer, config.weight_decay), corpus.tokenizer)
    torch.manual_seed(config.seed + team.rank)  # dropout: ranks share the weights, but not the sequences
    if checkpoint is not None:
        checkpoints.restore(checkpoint, state, team)
    return Run(config, team, corpus, state, engine, units, start)


def run_steps(run: Run, logger: MetricsLogger, stop_signal: StopSignal) -> None:
    """Run the training loop."""
    config, team = run.config, run.team
    keep_memory()
    done = run.start
    while done < config.steps and not team.any(stop_signal.received):
        batch = random_sequences(run.corpus.training, config.batch_size, config.seq_len, config.seed, done)
        rate = learning_rate(done, config.learning_rate, config.warmup, config.steps)
        loss, norm = take_step(run.engine, run.state.optimizers, batch, rate, config, team)
        if not (loss.isfinite() and norm.isfinite()):
            raise divergence_error(config, batch, done, loss, norm)
        done += 1
        evaluates = is_due(done, config.eval_every, config)
        saves = is_due(done, config.save_every, config)
        with logger.excluded_from_timing():
            validation = evaluate(run, done) if evaluates else None
        logger.record(loss, norm, rate, validation, force=saves or stop_signal.received)
        with logger.excluded_from_timing():
            if saves:
                checkpoints.save(config.out, done, run.state, team, config.keep_checkpoints)
    if done < config.steps:
        checkpoints.save(config.out, done, run.state, team, config.keep_checkpoints)
        logger.print(f"stopped after step {done}; to resume: {resume_command(config)}")


def take_step(
    engine: nn.Module,
    optimizers: Sequence[Optimizer],
    batch: Tokens,
    rate: float,
    config: TrainConfig,
    team: Distributed,
) -> tuple[Tensor, Tensor]:
    """Take one step on the sequences of all ranks; return the loss in nats per token and the norm of the gradients
    before clipping. Every token of the batch has the same weight, however the batch is split. The weights stay as they
    are if loss or norm is not finite.
    """
    targets = batch[:, 1:].numel()
    loss = torch.zeros((), device=team.device)
    engine.zero_grad()
    parts = team.local_rows(batch).chunk(config.grad_accum_steps)
    for number, part in enumerate(parts, start=1):
        with team.synchronised(engine, number == len(parts)):
            with team.autocast(config.dtype):
                nats = engine(part, targets)
            (nats * team.size).backward()  # ranks average their gradients
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
    """Return True after every `every` steps, and at the end."""
    return done % every == 0 or done == config.steps


def evaluate(run: Run, done: int) -> Validation:
    """Compute validation bits per byte, and write a sample."""
    config, team, model = run.config, run.team, run.state.model
    with evaluating(model), team.autocast(config.dtype):
        bits = bits_per_byte(model, run.corpus, 4 * config.batch_size, config.seq_len, team)
        text = sample(model, run.corpus.tokenizer, config.seq_len, config.seed + done, team.device)
    return Validation(bits, text)


def save_result(run: Run, history: list[Metrics]) -> None:
    """Save the model as a Hugging Face directory, and plot the loss."""
    whole = run.team.gather_model(run.state.model)
    if run.team.is_main_process:
        whole.save_pretrained(run.config.out)
        run.state.tokenizer.save_pretrained(run.config.out)
        plot.loss_curve(history, run.config.out / "loss.png", report.baselines(run.config))
        if history and history[-1].step == run.config.steps:
            setup.finish(run.config)
    run.team.barrier()


@contextmanager
def explain_disk_errors(config: TrainConfig) -> Iterator[None]:
    """Explain what is left of a run if its disk is full. Raises TrainingError for OSError."""
    try:
        yield
    except OSError as error:
        saved = checkpoints.saved_steps(config.out)
        left = f"the checkpoint {saved[max(saved)]} is complete" if saved else "there is no checkpoint yet"
        message = f"{config.out} cannot be written: {error}; {left}; make room, then {resume_command(config)}"
        raise TrainingError(message) from error


def divergence_error(config: TrainConfig, batch: Tokens, done: int, loss: Tensor, norm: Tensor) -> TrainingError:
    """Save the batch on which loss or gradient is not finite, and return the error that names it."""
    path = config.out / f"batch-{done + 1}.safetensors"
    save_file({"tokens": batch}, path)
    return TrainingError(
        f"step {done + 1} has loss {loss.item()} and gradients of norm {norm.item()}; its sequences are in "
        f"{path}; the weights before it were finite; try a lower --learning-rate or a longer --warmup"
    )


def read_command_line(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Read the flags; the defaults are those of --preset or, with --resume, the settings of the run in --out."""
    first = Parser(PROGRAM, add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=TrainConfig.preset)
    first.add_argument("--out", type=Path, default=TrainConfig.out)
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.preset not in presets.SIZES:
        near = suggestion(known.preset, presets.SIZES)
        refuse(f"--preset is {known.preset!r}, expected one of {', '.join(presets.SIZES)}{near}", PROGRAM)
    default = TrainConfig(**presets.settings(known.preset))
    record = checkpoints.read_record(known.out) if known.resume else None
    if record is not None:
        default = TrainConfig(**from_json(record.config))
    return parse(TrainConfig, PROGRAM, __doc__, arguments, default)


def main() -> None:
    """Run the command line, on which every field of TrainConfig is a flag."""
    # Inside the loop Ctrl-C is StopSignal's.
    with one_line_errors("interrupted; the same command starts again; --resume continues from a checkpoint, if any"):
        config = read_command_line()
        history = train(config)
        if history and is_main_process():
            print(f"\n{report.summary(config, history)}")
            if config.json or not sys.stdout.isatty():  # for the program that reads it
                print(json.dumps(report.numbers(config, history)))


if __name__ == "__main__":
    main()
