"""The state of a run on disk.

    OUT/run.json                     RunRecord: the settings with which the run was started
    OUT/checkpoints/step-00000400/   a Hugging Face checkpoint with its tokenizer, and in addition
        optimizer/                   its state, by torch.distributed.checkpoint: any number of processes reads it
        random-00000.safetensors     the state of the random number generators, one file per rank

The learning rate and the sequences of a step are functions of its number: they have no state. A checkpoint is written
under another name, flushed to disk and renamed, and it is renamed before it is removed: a directory called step-… is
complete. OUT belongs to one run at a time, which holds a lock in OUT/checkpoints from its start to its end.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from llama_scratch.checkpoint.atomic import InUseError, atomic_directory, locked, recover, remove_directory
from llama_scratch.checkpoint.files import CheckpointError, read_json, write_json
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.training.distributed import Distributed

FOLDER, RUN, OPTIMIZER, LOCK = "checkpoints", "run.json", "optimizer", "run"
NAME = re.compile(r"step-(\d{8})")
DISK_ERROR = re.compile(rf"(?:Errno |os error |OSError\()({errno.ENOSPC}|{errno.EFBIG}|{errno.EDQUOT}|{errno.EIO})\b")


@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state that training changes."""

    model: Llama
    optimizers: tuple[torch.optim.Optimizer, ...]
    tokenizer: Tokenizer


def saved_steps(out: Path) -> dict[int, Path]:
    """Map the number of steps to the checkpoint after them, in order."""
    steps = {}
    for path in sorted((out / FOLDER).glob("step-*")):
        match = NAME.fullmatch(path.name)
        if match is not None:
            steps[int(match[1])] = path
    return steps


def save(out: Path, step: int, state: TrainState, team: Distributed, keep: int) -> Path:
    """Save a checkpoint after `step` steps, and remove all but the last `keep`. Every rank must call it.

    Raises OSError; then the other checkpoints are unchanged.
    """
    final = out / FOLDER / f"step-{step:08}"
    with _made_by_all(final, team) as staging:
        with disk_errors(staging):
            optimizer = get_optimizer_state_dict(state.model, state.optimizers)
            save_shards(optimizer, checkpoint_id=staging / OPTIMIZER, no_dist=team.size == 1)
            save_file(_random_state(), staging / f"random-{team.rank:05}.safetensors")
            whole = team.gather_model(state.model)
            if team.is_main_process:
                whole.save_pretrained(staging)
                state.tokenizer.save_pretrained(staging)
        team.barrier()
    if team.is_main_process:
        for path in list(saved_steps(out).values())[:-keep]:
            remove_directory(path)
    team.barrier()
    return final


@contextmanager
def _made_by_all(final: Path, team: Distributed) -> Iterator[Path]:
    """Yield the same new directory on every rank; rank 0 moves it to its place."""
    if team.is_main_process:
        with atomic_directory(final) as staging:
            team.broadcast_text(str(staging))
            yield staging
    else:
        yield Path(team.broadcast_text(""))


@contextmanager
def sole_run(out: Path, team: Distributed) -> Iterator[None]:
    """Lock `out` for this run. Raises ConfigError if another process is training there.

    Removes what killed saves and removals have left.
    """
    if not team.is_main_process:
        yield
        return
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, expected a directory")
    with ExitStack() as locks:
        try:
            locks.enter_context(locked(out / FOLDER / LOCK, wait=False))
        except InUseError:
            problem = f"--out {out}: another process is training there"
            raise ConfigError(f"{problem}; wait until it is done, or name another --out") from None
        recover(out / FOLDER)
        yield


def restore(checkpoint: Path, state: TrainState, team: Distributed) -> None:
    """Restore the optimizer and the random number generators; the model has been loaded with its weights.

    A rank without a saved generator, because there were fewer ranks, gets a seed of its own.
    """
    optimizer = get_optimizer_state_dict(state.model, state.optimizers)
    with single_process_is_meant():
        load_shards(optimizer, checkpoint_id=checkpoint / OPTIMIZER, no_dist=team.size == 1)
    set_optimizer_state_dict(state.model, state.optimizers, optimizer)
    path = checkpoint / f"random-{team.rank:05}.safetensors"
    if not path.exists():
        torch.manual_seed(torch.initial_seed() + team.rank)
        return
    random = load_file(path)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of run.json."""

    config: dict[str, Any]
    """The settings of the run: setup.to_json."""
    text: str
    """Digest of the corpus."""
    torch: str
    """Version of torch."""
    finished: int | None = None
    """Number of steps, once the run has finished."""


def write_record(out: Path, record: RunRecord) -> None:
    """Write run.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, dataclasses.asdict(record))


def read_record(out: Path) -> RunRecord | None:
    """Read run.json; None if no run was started. Raises CheckpointError if it is damaged."""
    path = out / RUN
    if not path.exists():
        return None
    content = read_json(path)
    try:
        record = RunRecord(**content)
    except TypeError as error:
        raise CheckpointError(f"{path} is not the record of a run: {error}") from None
    if not isinstance(record.config, dict):
        raise CheckpointError(f"{path} is not the record of a run: config is {record.config!r}, expected an object")
    return record


def remove_all(out: Path) -> None:
    """Remove the checkpoints; other files next to them stay."""
    for path in saved_steps(out).values():
        remove_directory(path)


@contextmanager
def single_process_is_meant() -> Iterator[None]:
    """Silence torch.distributed.checkpoint's warning that there is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        yield


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn whatever a library raises for a full disk into an OSError that says so."""
    try:
        with single_process_is_meant():
            yield
    except (CheckpointException, SafetensorError, RuntimeError) as error:
        failures: list[BaseException] = [error]
        if isinstance(error, CheckpointException):
            failures = [failure for failure, _ in error.failures.values()]
        for failure in failures:
            match = DISK_ERROR.search(f"{failure!r} {failure.__cause__!r} {failure.__context__!r}")
            if match is not None:
                code = int(match[1])
                raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _random_state() -> dict[str, torch.Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}
