"""Weights under names that are not Hugging Face's, if they are unambiguous.

One file of tensors, or one complete set of numbered files, is read, with a warning:

    pytorch_model.pt  model.pth  weights.ckpt  consolidated.safetensors      one file
    model-00001-of-00002.safetensors …                                       numbered, without an index
    hf_model_0001_1.pt hf_model_0002_1.pt                                    torchtune: file and epoch

Several such files may be several models, or epochs: then the user has to choose.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.hints import adapter, listed, names_in, what_is_there

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# other files of training programs
NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|optim|scheduler|scaler|rng_state|random_states|trainer_state|tokenizer|recipe_state"
    r"|adapter|ema_state|lr_sched|zero_|mp_rank)"
)
OF = re.compile(r"(?P<stem>.*?)(?P<number>\d{2,6})-of-(?P<total>\d{2,6})(?P<suffix>\.\w+)")
TORCHTUNE = re.compile(r"(?P<stem>hf_model_)(?P<number>\d{4})(?P<suffix>_\d+\.\w+)")
MOST_PARTS = 10_000
logger = logging.getLogger(__name__)


def find_weights(directory: Path, usual: str) -> list[Path]:
    """List the files of the only set of weights in a directory without usual names.

    Raises CheckpointError, naming what is there, if there is none, an incomplete one, or more than one.
    """
    names = [n for n in names_in(directory) if n.endswith(SUFFIXES) and not NO_WEIGHTS.match(n)]
    sets: dict[str, list[str]] = {}
    for name in names:
        sets.setdefault(_set_of(name), []).append(name)
    missing = f"{directory / usual} is missing"
    if not sets:
        usual = "and so are its index, pytorch_model.bin and its index"
        raise CheckpointError(f"{missing}, {usual}; {_instead(directory)}")
    if len(sets) > 1:
        meant = f"rename the one that is meant to {usual}, or move the others away"
        raise CheckpointError(f"{missing}; there are {listed(names)}: {meant}")
    _check_complete(directory, names)
    logger.warning("%s: the weights are read from %s", directory, listed(names))
    return [directory / name for name in names]


def _instead(directory: Path) -> str:
    """Describe what the directory contains instead."""
    names = names_in(directory)
    if any(name.startswith("adapter_") for name in names):
        return adapter(directory)
    if any(name.endswith(".gguf") for name in names):
        return what_is_there(directory)
    return f"{directory} holds no weights but {listed(names)}"


def _set_of(name: str) -> str:
    """Pattern that all files of a set share."""
    match = OF.fullmatch(name) or TORCHTUNE.fullmatch(name)
    return f"{match['stem']}*{match['suffix']}" if match else name


def _check_complete(directory: Path, names: list[str]) -> None:
    """Raise CheckpointError naming the first missing file of a numbered set."""
    match = OF.fullmatch(names[0]) or TORCHTUNE.fullmatch(names[0])
    if not match:
        return
    numbers = [int((OF.fullmatch(name) or TORCHTUNE.fullmatch(name) or match)["number"]) for name in names]
    first = min(*numbers, 1)
    total = int(match["total"]) if match.re is OF else len(names)
    wanted = range(first, first + min(total, MOST_PARTS))
    absent = next((number for number in wanted if number not in numbers), None)
    if absent is not None:
        start, end = match.span("number")
        name = f"{names[0][:start]}{absent:0{end - start}}{names[0][end:]}"
        raise CheckpointError(f"{directory / name} is missing; there are {listed(names)}")
    if len(numbers) != len(wanted):
        raise CheckpointError(f"{directory} holds {listed(names)}, expected {len(wanted)} files")
