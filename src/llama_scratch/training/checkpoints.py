"""The state of a run on disk.

    OUT/run.json                     what the run was told, as it was first told it
    OUT/checkpoints/step-00000400/   a Hugging Face checkpoint with its tokenizer, and beside it
        optimizer/                   its state, by torch.distributed.checkpoint: any number of processes reads it
        random-00000.safetensors     the state of the random numbers, a file a process

The schedule and the windows of a step are functions of its number: they have no state. A checkpoint is written under
another name, flushed to disk and renamed, and removed under another name too: what is called step-… is whole. One run
at a time is in OUT: it holds a lock in OUT/checkpoints from its start to its end.
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

from llama_scratch.checkpoint.atomic import InUseError, atomic_directory, locked, remove_directory, settle
from llama_scratch.checkpoint.files import read_json, write_json
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.training.distributed import Distributed

FOLDER, RUN, OPTIMIZER, LOCK = "checkpoints", "run.json", "optimizer", "run"
NAME = re.compile(r"step-(\d{8})")
DISK_ERROR = re.compile(rf"(?:Errno |os error |OSError\()({errno.ENOSPC}|{errno.EFBIG}|{errno.EDQUOT}|{errno.EIO})\b")


@dataclasses.dataclass(frozen=True)
class TrainState:
    """What changes in training."""

    model: Llama
    optimizers: tuple[torch.optim.Optimizer, ...]
    tokenizer: Tokenizer


def saved_steps(out: Path) -> dict[int, Path]:
    """Steps done -> checkpoint, in order; empty where there is none."""
    found = ((NAME.fullmatch(path.name), path) for path in sorted((out / FOLDER).glob("step-*")))
    return {int(match[1]): path for match, path in found if match}


def save(out: Path, step: int, trained: TrainState, team: Distributed, keep: int) -> Path:
    """A checkpoint after `step` steps, of which the last `keep` stay. All processes must call it. Raises OSError; then
    the other checkpoints are as they were.
    """
    final = out / FOLDER / f"step-{step:08}"
    with _made_by_all(final, team) as staging:
        with disk_errors(staging):
            state = get_optimizer_state_dict(trained.model, trained.optimizers)
            save_shards(state, checkpoint_id=staging / OPTIMIZER, no_dist=team.size == 1)
            save_file(_random_state(), staging / f"random-{team.rank:05}.safetensors")
            whole = team.gather_model(trained.model)
            if team.is_main_process:
                whole.save_pretrained(staging)
                trained.tokenizer.save_pretrained(staging)
        team.barrier()
    if team.is_main_process:
        for path in list(saved_steps(out).values())[:-keep]:
            remove_directory(path)
    team.barrier()
    return final


@contextmanager
def _made_by_all(final: Path, team: Distributed) -> Iterator[Path]:
    """Yield the same new directory in every process; the first one puts it into its place."""
    if team.is_main_process:
        with atomic_directory(final) as staging:
            team.from_first(str(staging))
            yield staging
    else:
        yield Path(team.from_first(""))


@contextmanager
def sole_run(out: Path, team: Distributed) -> Iterator[None]:
    """Nobody else trains in `out`. Raises ConfigError where somebody does.

    What a kill has left of a save or a removal is tidied up.
    """
    if not team.is_main_process:
        yield
        return
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, expected a directory")
    with ExitStack() as held:
        try:
            held.enter_context(locked(out / FOLDER / LOCK, wait=False))
        except InUseError:
            taken = f"--out {out}: another process is training there"
            raise ConfigError(f"{taken}; wait until it is done, or name another --out") from None
        settle(out / FOLDER)
        yield


def restore(checkpoint: Path, trained: TrainState, team: Distributed) -> None:
    """The optimiser and the random numbers as they were; the weights are those that the model was loaded with.

    A process that has no random numbers there, because there were fewer processes, draws others than the rest.
    """
    state = get_optimizer_state_dict(trained.model, trained.optimizers)
    with single_process_is_meant():
        load_shards(state, checkpoint_id=checkpoint / OPTIMIZER, no_dist=team.size == 1)
    set_optimizer_state_dict(trained.model, trained.optimizers, state)
    path = checkpoint / f"random-{team.rank:05}.safetensors"
    if not path.exists():
        torch.manual_seed(torch.initial_seed() + team.rank)
        return
    random = load_file(path)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])


def record(out: Path, content: dict[str, Any]) -> None:
    """What the run was told."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN, content)


def recorded(out: Path) -> dict[str, Any] | None:
    """None where no run was started. Raises CheckpointError where the file is damaged."""
    return read_json(out / RUN) if (out / RUN).exists() else None


def remove_all(out: Path) -> None:
    """The checkpoints; other files beside them stay."""
    for path in saved_steps(out).values():
        remove_directory(path)


@contextmanager
def single_process_is_meant() -> Iterator[None]:
    """Without the warning of torch.distributed.checkpoint that it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
        yield


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Whatever a library makes of a full disk becomes an OSError that says so."""
    try:
        with single_process_is_meant():
            yield
    except (CheckpointException, SafetensorError, RuntimeError) as error:
        failures = [e for e, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        for failure in failures:
            if number := DISK_ERROR.search(f"{failure!r} {failure.__cause__!r} {failure.__context__!r}"):
                code = int(number[1])
                raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _random_state() -> dict[str, torch.Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}
