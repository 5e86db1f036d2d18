"""How a run starts: from nothing, from a checkpoint of another model, or from where it was stopped."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llama_scratch.checkpoint.found import check_directory
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.checkpoint.saving import OURS
from llama_scratch.command_line import flag, this_python
from llama_scratch.data import Corpus, CorpusConfig, prepare
from llama_scratch.data.corpus import digest
from llama_scratch.fast.sdpa import use_sdpa
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError, check
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.tokenizer.settings import CONFIG, JSON, MODEL
from llama_scratch.training.checkpoints import FOLDER, record, recorded, remove_all, saved_steps
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import RESTARTS, Distributed
from llama_scratch.training.metrics import LOG, TENSORBOARD

# what may be another when a run goes on: nothing that a step depends on, but `steps`, which stretches the schedule
CHANGEABLE = (
    "out",
    "resume",
    "preset",
    "steps",
    "save_every",
    "keep_checkpoints",
    "eval_every",
    "device",
    "parallel",
    "activation_checkpointing",
    "grad_accum_steps",
    "num_workers",
    "tokens_dir",
    "ignore",
    "json",
)
FINISHED = "finished"


def resume_point(config: TrainConfig) -> tuple[int, Path | None]:
    """How many steps are done, and the checkpoint after them.

    Raises ConfigError where there is no run to go on with, where it was told something else, and where a new one would
    bury what is in --out.
    """
    told = recorded(config.out)
    saved = saved_steps(config.out)
    restarted = told is not None and int(os.environ.get(RESTARTS, 0)) > 0  # by torchrun, with the same command line
    if config.resume or restarted:
        if told is None:
            raise ConfigError(f"--resume: no run was started in {config.out}")
        for name, value, before in _differences(config, told):
            raise ConfigError(f"{flag(name)} is {value!r}, but the run in {config.out} was started with "
                              f"{before!r}: leave it out, or start another run")  # fmt: skip
        done, checkpoint = max(saved.items(), default=(0, None))
        wanted = f"at least the {done} that the run in {config.out} has done"
        check("--steps", config.steps, wanted, lambda steps: steps >= done)
        return done, checkpoint
    found = None if config.overwrite else _at_stake(config, told, saved)
    if found is not None:
        raise ConfigError(f"--out {config.out} holds {found}")
    return 0, None


def is_done(config: TrainConfig) -> bool:
    """Whether --out holds this very run, from the same settings and the same text, at its end.

    Raises DataError where the text cannot be read.
    """
    told = recorded(config.out)
    if config.resume or config.overwrite or told is None or told.get(FINISHED) != config.steps:
        return False
    request, place = _request(config), tokens_of(config)
    if any(_differences(config, told)) or digest(request, place) != told["text"]:
        return False
    prepare(request, place, config.num_workers, config.seq_len)  # for what is said of it, where somebody removed it
    return True


def _differences(config: TrainConfig, told: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that may not change when a run goes on, and have: name, value, what the run was told."""
    for name, value in to_json(config).items():
        if name not in CHANGEABLE and value != told["config"].get(name):
            yield name, value, told["config"].get(name)


def _at_stake(config: TrainConfig, told: dict[str, Any] | None, saved: dict[int, Path]) -> str | None:
    """What a new run in --out would bury, and the ways on; None where there is nothing."""
    other = "replace it by --overwrite, or name another --out"
    if told is not None and FINISHED in told:
        return f"a finished run that is not this one, {_what_changed(config, told)}: {other}"
    if told is not None and saved:
        found = f"a run that was stopped after {max(saved)} of {told['config']['steps']} steps"
        return f"{found}: go on with it by {resume_command(config)}, {other}"
    names = sorted(path.name for path in config.out.glob("*"))
    lost = [name for name in names if OURS.fullmatch(name)]
    if told is None:  # the log of a run that was killed before its first checkpoint is worth nothing
        lost += [name for name in names if name in (LOG, "loss.png", JSON, MODEL, CONFIG)]
        lost += [f"{FOLDER}/{path.name}" for path in saved.values()]
    return f"{lost[0]}, which is not of a run that could go on: {other}" if lost else None


def _what_changed(config: TrainConfig, told: dict[str, Any]) -> str:
    steps = ("steps", config.steps, told["config"]["steps"])
    for name, value, before in (*_differences(config, told), steps):
        if value != before:
            return f"{flag(name)} {value} instead of {before}"
    return "its text has changed"


def resume_command(config: TrainConfig) -> str:
    """The command."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = this_python() if processes == "1" else f"torchrun --nproc-per-node {processes}"
    return f"{start} -m llama_scratch.train --resume --out {shlex.quote(str(config.out))}"


def check_batch(config: TrainConfig, team: Distributed) -> None:
    """Raises ConfigError unless every part of a batch has as many windows."""
    parts = team.size * config.grad_accum_steps
    wanted = f"a multiple of {parts}: processes × --grad-accum-steps"
    check("--batch-size", config.batch_size, wanted, lambda size: size % parts == 0)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The fields as JSON knows them, paths as they are from anywhere."""
    fields = dataclasses.asdict(config)
    del fields["overwrite"]  # it is said once
    fields["data"] = [str(path.absolute()) for path in config.data]
    fields["ignore"] = list(config.ignore)
    for name in ("tokens_dir", "init_from"):
        fields[name] = None if fields[name] is None else str(fields[name].absolute())
    return fields | {"out": str(config.out)}


def from_json(told: dict[str, Any]) -> dict[str, Any]:
    """The fields again."""
    paths = {"data": tuple(map(Path, told["data"])), "out": Path(told["out"])}
    for name in ("tokens_dir", "init_from"):
        paths[name] = None if told[name] is None else Path(told[name])
    return told | paths | {"ignore": tuple(told.get("ignore", ()))}


def read_corpus(config: TrainConfig, team: Distributed, start: int) -> Corpus:
    """The text, prepared by the first process for all; then what the run was told is written down.

    Raises ConfigError when a run goes on and the text is not what it was; DataError, TokenizerError and OSError.
    """
    if config.init_from is not None:
        check_directory(config.init_from)
    with team.main_process_first():
        corpus = prepare(_request(config), tokens_of(config), config.num_workers, config.seq_len)
        if team.is_main_process:
            _begin(config, corpus, start)
    return corpus


def _request(config: TrainConfig) -> CorpusConfig:
    fields = {name: getattr(config, name) for name in ("data", "text_field", "val_fraction", "vocab_size")}
    return CorpusConfig(**fields, tokenizer=config.init_from)


def tokens_of(config: TrainConfig) -> Path:
    """Where the text is kept tokenised."""
    return config.tokens_dir or config.out / "tokens"


def _begin(config: TrainConfig, corpus: Corpus, start: int) -> None:
    told = recorded(config.out)
    if start and told is not None and told["text"] != corpus.digest:
        raise ConfigError(f"--resume: the text, its tokenizer or its split is not what the run in {config.out} was "
                          "started with: bring it back, or start another run")  # fmt: skip
    if not start:
        remove_all(config.out)
        for events in (config.out / TENSORBOARD).glob("events.out.tfevents.*"):  # two curves in one picture
            events.unlink()
    record(config.out, {"config": to_json(config), "text": corpus.digest, "torch": torch.__version__})


def finish(config: TrainConfig) -> None:
    """Write down that the run is at its end."""
    told = recorded(config.out)
    if told is not None:
        record(config.out, told | {FINISHED: config.steps})


def make_model(config: TrainConfig, tokenizer: Tokenizer, checkpoint: Path | None) -> Llama:
    """A new model, or that of a directory, in float32. Raises CheckpointError or ConfigError."""
    directory = checkpoint or config.init_from
    if directory is None:
        return Llama(model_config(config, tokenizer), sdpa=True)
    model = Llama.from_pretrained(directory, dtype=torch.float32, ignore=() if checkpoint else config.ignore)
    longest = model.config.max_position_embeddings
    check("--seq-len", config.seq_len, f"at most the {longest} tokens of {directory}", lambda v: v <= longest)
    if tokenizer.vocab_size > model.config.vocab_size:
        found = f"{tokenizer.vocab_size} ids, but the model {model.config.vocab_size}"
        raise ConfigError(f"--init-from {directory}: the tokenizer has {found}")
    use_sdpa(model)
    return model


def model_config(config: TrainConfig, tokenizer: Tokenizer) -> LlamaConfig:
    """The Llama of a run: its proportions follow from the width, as in Touvron et al. 2023, 2.2."""
    return LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=math.ceil(config.hidden_size * 8 / 3 / 32) * 32,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads // 2,
        max_position_embeddings=config.seq_len,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
