"""How a run starts: from nothing, from a checkpoint of another model, or from where it was stopped."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.command_line import flag
from llama_scratch.data import Corpus, Request, prepare
from llama_scratch.model.attention import Attention
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError, check
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.training.checkpoints import FOLDER, record, recorded, saved_steps
from llama_scratch.training.config import TrainConfig
from llama_scratch.training.distributed import RESTARTS, Team

# what may be another when a run goes on: nothing that a step depends on, but `steps`, which stretches the schedule
CHANGEABLE = ("out", "resume", "preset", "steps", "save_every", "keep", "eval_every", "device", "parallel", "recompute",
              "accumulate", "processes", "tokens")  # fmt: skip


def where_to_start(config: TrainConfig) -> tuple[int, Path | None]:
    """How many steps are done, and the checkpoint after them. Raises ConfigError where there is no run to go on with,
    where it was told something else, and where a new one would bury one that is not at its end.
    """
    told = recorded(config.out)
    saved = saved_steps(config.out)
    restarted = told is not None and int(os.environ.get(RESTARTS, 0)) > 0  # by torchrun, with the same command line
    if config.resume or restarted:
        if told is None:
            raise ConfigError(f"--resume: no run was started in {config.out}")
        for name, value in settings(config).items():
            if name not in CHANGEABLE and value != told["config"].get(name):
                raise ConfigError(f"{flag(name)} is {value!r}, but the run in {config.out} was started with "
                                  f"{told['config'].get(name)!r}: leave it out, or start another run")  # fmt: skip
        return max(saved.items(), default=(0, None))
    if told is not None and saved and max(saved) < told["config"]["steps"]:
        found = f"a run that was stopped after {max(saved)} of {told['config']['steps']} steps"
        raise ConfigError(f"--out {config.out} holds {found}: go on with it by --resume, remove {config.out / FOLDER} "
                          "to start anew, or name another --out")  # fmt: skip
    return 0, None


def check_batch(config: TrainConfig, team: Team) -> None:
    """Raises ConfigError unless every part of a batch has as many windows."""
    parts = team.size * config.accumulate
    wanted = f"a multiple of {parts}: processes × --accumulate"
    check("--batch-size", config.batch_size, wanted, lambda size: size % parts == 0)


def settings(config: TrainConfig) -> dict[str, Any]:
    """The fields as JSON knows them, paths as they are from anywhere."""
    fields = dataclasses.asdict(config)
    fields["data"] = [str(path.absolute()) for path in config.data]
    for name in ("tokens", "init_from"):
        fields[name] = None if fields[name] is None else str(fields[name].absolute())
    return fields | {"out": str(config.out)}


def from_settings(told: dict[str, Any]) -> dict[str, Any]:
    """The fields again."""
    paths = {"data": tuple(map(Path, told["data"])), "out": Path(told["out"])}
    for name in ("tokens", "init_from"):
        paths[name] = None if told[name] is None else Path(told[name])
    return told | paths


def read_corpus(config: TrainConfig, team: Team, start: int) -> Corpus:
    """The text, prepared by the first process for all; then what the run was told is written down.

    Raises ConfigError when a run goes on and the text is not what it was; DataError, TokenizerError and OSError.
    """
    fields = {name: getattr(config, name) for name in ("data", "text_field", "held_out", "vocab_size")}
    request = Request(**fields, tokenizer=config.init_from)
    with team.first_then_others():
        corpus = prepare(request, config.tokens or config.out / "tokens", config.processes, config.context)
        if team.is_first:
            _begin(config, corpus, start)
    return corpus


def _begin(config: TrainConfig, corpus: Corpus, start: int) -> None:
    told = recorded(config.out)
    if start and told is not None and told["text"] != corpus.digest:
        raise ConfigError(f"--resume: the text, its tokenizer or its split is not what the run in {config.out} was "
                          "started with: bring it back, or start another run")  # fmt: skip
    if not start:
        shutil.rmtree(config.out / FOLDER, ignore_errors=True)
    record(config.out, {"config": settings(config), "text": corpus.digest, "torch": torch.__version__})


def make_model(config: TrainConfig, tokenizer: Tokenizer, checkpoint: Path | None) -> Llama:
    """A new model, or that of a directory, in float32. Raises CheckpointError or ConfigError."""
    directory = checkpoint or config.init_from
    if directory is None:
        return Llama(model_config(config, tokenizer), sdpa=True)
    model = Llama.from_pretrained(directory, dtype=torch.float32)
    longest = model.config.max_position_embeddings
    check("--context", config.context, f"at most the {longest} tokens of {directory}", lambda v: v <= longest)
    if tokenizer.vocab_size > model.config.vocab_size:
        found = f"{tokenizer.vocab_size} ids, but the model {model.config.vocab_size}"
        raise ConfigError(f"--init-from {directory}: the tokenizer has {found}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.sdpa = True
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
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
