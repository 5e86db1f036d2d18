"""How a run starts: from nothing, from another model, or from its last checkpoint."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llama_scratch.checkpoint.hints import check_directory
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
from llama_scratch.training.checkpoints import (
    FOLDER,
    RunRecord,
    read_record,
    remove_all,
    saved_steps,
    write_record,
)
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import RESTARTS, Distributed
from llama_scratch.training.metrics import LOG, TENSORBOARD

# settings that may change on --resume; only `steps` affects training (it stretches the learning rate schedule)
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


class Difference(NamedTuple):
    """A setting that is not the one with which the run was started."""

    name: str
    value: Any
    before: Any


def resume_point(config: TrainConfig) -> tuple[int, Path | None]:
    """Return how many steps are done, and the checkpoint after them.

    Raises ConfigError if there is no run to resume, if it was started with other settings, and if a new run would
    replace what is in --out.
    """
    record = read_record(config.out)
    saved = saved_steps(config.out)
    restarted = record is not None and int(os.environ.get(RESTARTS, 0)) > 0  # by torchrun, with the same command line
    if config.resume or restarted:
        if record is None:
            raise ConfigError(f"--resume: no run was started in {config.out}")
        for changed in _differences(config, record):
            raise ConfigError(
                f"{flag(changed.name)} is {changed.value!r}, but the run in {config.out} was started with "
                f"{changed.before!r}: leave it out, or start another run"
            )
        done, checkpoint = max(saved.items(), default=(0, None))
        expected = f"at least the {done} that the run in {config.out} has done"
        check("--steps", config.steps, expected, lambda steps: steps >= done)
        return done, checkpoint
    lost = None if config.overwrite else _at_stake(config, record, saved)
    if lost is not None:
        raise ConfigError(f"--out {config.out} holds {lost}")
    return 0, None


def is_done(config: TrainConfig) -> bool:
    """Return True if --out holds this very run, with the same settings and text, finished.

    Raises DataError if the text cannot be read.
    """
    record = read_record(config.out)
    if config.resume or config.overwrite or record is None or record.finished != config.steps:
        return False
    request = _corpus_config(config)
    directory = tokens_of(config)
    if any(_differences(config, record)) or digest(request, directory) != record.text:
        return False
    prepare(request, directory, config.num_workers, config.seq_len)  # for the summary, if the tokens were removed
    return True


def _differences(config: TrainConfig, record: RunRecord) -> Iterator[Difference]:
    """Yield the settings that differ, and may not change on --resume."""
    for name, value in to_json(config).items():
        before = record.config.get(name)
        if name not in CHANGEABLE and value != before:
            yield Difference(name, value, before)


def _at_stake(config: TrainConfig, record: RunRecord | None, saved: dict[int, Path]) -> str | None:
    """Describe what a new run in --out would replace, and what to do; None if there is nothing."""
    other = "replace it by --overwrite, or name another --out"
    if record is not None and record.finished is not None:
        return f"a finished run that is not this one, {_what_changed(config, record)}: {other}"
    if record is not None and saved:
        stopped = f"a run that was stopped after {max(saved)} of {record.config['steps']} steps"
        return f"{stopped}: resume it by {resume_command(config)}, {other}"
    names = sorted(path.name for path in config.out.glob("*"))
    lost = [name for name in names if OURS.fullmatch(name)]
    if record is None:  # the log of a run that was killed before its first checkpoint may go
        lost += [name for name in names if name in (LOG, "loss.png", JSON, MODEL, CONFIG)]
        lost += [f"{FOLDER}/{path.name}" for path in saved.values()]
    return f"{lost[0]}, which does not belong to a run that can be resumed: {other}" if lost else None


def _what_changed(config: TrainConfig, record: RunRecord) -> str:
    steps = Difference("steps", config.steps, record.config["steps"])
    for name, value, before in (*_differences(config, record), steps):
        if value != before:
            return f"{flag(name)} {value} instead of {before}"
    return "its text has changed"


def resume_command(config: TrainConfig) -> str:
    """Return the command that resumes the run."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = this_python() if processes == "1" else f"torchrun --nproc-per-node {processes}"
    return f"{start} -m llama_scratch.train --resume --out {shlex.quote(str(config.out))}"


def check_batch(config: TrainConfig, team: Distributed) -> None:
    """Raise ConfigError unless a batch can be divided evenly."""
    parts = team.size * config.grad_accum_steps
    expected = f"a multiple of {parts}: processes × --grad-accum-steps"
    check("--batch-size", config.batch_size, expected, lambda size: size % parts == 0)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Convert the fields to JSON's types, paths to absolute ones."""
    fields = dataclasses.asdict(config)
    del fields["overwrite"]  # it holds for one start only
    fields["data"] = [str(path.absolute()) for path in config.data]
    fields["ignore"] = list(config.ignore)
    for name in ("tokens_dir", "init_from"):
        fields[name] = None if fields[name] is None else str(fields[name].absolute())
    return fields | {"out": str(config.out)}


def from_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields back."""
    paths: dict[str, Any] = {"data": tuple(map(Path, fields["data"])), "out": Path(fields["out"])}
    for name in ("tokens_dir", "init_from"):
        paths[name] = None if fields[name] is None else Path(fields[name])
    return fields | paths | {"ignore": tuple(fields.get("ignore", ()))}


def read_corpus(config: TrainConfig, team: Distributed, start: int) -> Corpus:
    """Prepare the text on rank 0, open it on every rank, and record the settings of the run.

    Raises ConfigError if a run is resumed and its text has changed; DataError, TokenizerError and OSError.
    """
    if config.init_from is not None:
        check_directory(config.init_from)
    with team.main_process_first():
        corpus = prepare(_corpus_config(config), tokens_of(config), config.num_workers, config.seq_len)
        if team.is_main_process:
            _begin(config, corpus, start)
    return corpus


def _corpus_config(config: TrainConfig) -> CorpusConfig:
    fields = {name: getattr(config, name) for name in ("data", "text_field", "val_fraction", "vocab_size")}
    return CorpusConfig(**fields, tokenizer=config.init_from)


def tokens_of(config: TrainConfig) -> Path:
    """Directory of the tokenised text."""
    return config.tokens_dir or config.out / "tokens"


def _begin(config: TrainConfig, corpus: Corpus, start: int) -> None:
    record = read_record(config.out)
    if start and record is not None and record.text != corpus.digest:
        raise ConfigError(
            f"--resume: the text, its tokenizer or its split is not what the run in {config.out} was "
            "started with: bring it back, or start another run"
        )
    if not start:
        remove_all(config.out)
        for events in (config.out / TENSORBOARD).glob(
            "events.out.tfevents.*"
        ):  # or TensorBoard would show both runs as one
            events.unlink()
    write_record(config.out, RunRecord(to_json(config), corpus.digest, torch.__version__))


def finish(config: TrainConfig) -> None:
    """Record that the run has finished."""
    record = read_record(config.out)
    if record is not None:
        write_record(config.out, dataclasses.replace(record, finished=config.steps))


def make_model(config: TrainConfig, tokenizer: Tokenizer, checkpoint: Path | None) -> Llama:
    """Make a new model, or load one, in float32. Raises CheckpointError or ConfigError."""
    directory = checkpoint or config.init_from
    if directory is None:
        return Llama(model_config(config, tokenizer), sdpa=True)
    model = Llama.from_pretrained(directory, dtype=torch.float32, ignore=() if checkpoint else config.ignore)
    longest = model.config.max_position_embeddings
    check("--seq-len", config.seq_len, f"at most the {longest} tokens of {directory}", lambda v: v <= longest)
    if tokenizer.vocab_size > model.config.vocab_size:
        problem = f"the tokenizer has {tokenizer.vocab_size} ids, but the model {model.config.vocab_size}"
        raise ConfigError(f"--init-from {directory}: {problem}")
    use_sdpa(model)
    return model


def model_config(config: TrainConfig, tokenizer: Tokenizer) -> LlamaConfig:
    """Make the configuration of a new Llama; its proportions follow from the width, as in Touvron et al. 2023, section
    2.2.
    """
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
