"""A directory on disk, in Hugging Face's format, <-> a Llama.

    config.json              the configuration, of any vintage
    generation_config.json   more ids to stop at, if it is there
    model.safetensors        every parameter under its Hugging Face name; storage/weight_files.py: other forms

Loading is strict: what is missing, unexpected or misshapen is an error that names it, never a random weight. Weights
are memory-mapped, and the model is built without any, so that they are in memory once. How saving is atomic is told in
storage/saving.py.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from llama_scratch.checkpoint import config_file
from llama_scratch.checkpoint.files import CheckpointError, exists, read_json, write_file, write_json
from llama_scratch.checkpoint.found import ADAPTER, adapter, check_directory
from llama_scratch.checkpoint.hf_files import CONFIG, GENERATION, MAX_SHARD_SIZE, checkpoint_files
from llama_scratch.checkpoint.matching import EMBEDDING, HEAD, fit, own_dtype, read
from llama_scratch.checkpoint.saving import replace_checkpoint
from llama_scratch.checkpoint.weight_files import Weight, read_weights
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import TOKENS, ConfigError, check

__all__ = ["Checkpoint", "CheckpointError", "Pretrained", "read_checkpoint", "read_config", "read_json", "write_file",
           "write_json"]  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A configuration and weights that have not been read yet, whatever the format they are stored in."""

    where: Path  # the file that lists the weights
    config: LlamaConfig
    weights: Mapping[str, Weight]
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Pretrained(nn.Module):
    """Loading and saving, for the model to inherit."""

    config: LlamaConfig
    generation_config: Mapping[str, Any] = MappingProxyType({})  # generation_config.json, kept to be saved again

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        check_finite: bool = False,
        ignore: Collection[str] = (),
    ) -> Self:
        """The model in `directory`, in eval mode.

        dtype None keeps the checkpoint's own, by transformers' rule: what config.json says, or else what is stored.
        `ignore` names keys of config.json to be read as if they were not there.
        check_finite reads every weight, and refuses NaN, infinity and a tensor that is stored as another dtype.
        config.eos_token_id is the union of both files' stop ids. Raises CheckpointError, naming file and key.
        """
        checkpoint = read_checkpoint(Path(directory), ignore)
        model, weights = cls.fitted(checkpoint)
        own = own_dtype(checkpoint.config, weights)
        how = (dtype or own, device, own if check_finite else None)
        state = {key: read(weight, *how) for key, weight in weights.items()}
        if checkpoint.config.tie_word_embeddings:
            state[HEAD] = state[EMBEDDING]
        model.load_state_dict(state, assign=True)
        model.tie_weights()  # type: ignore[operator]
        model.generation_config = checkpoint.generation
        return model.eval()

    @classmethod
    def fitted(cls, checkpoint: Checkpoint) -> tuple[Self, dict[str, Weight]]:
        """A model without weights, and exactly those that it needs, none of them read. Raises CheckpointError."""
        config, stored = checkpoint.config, len(checkpoint.weights)
        if config.num_hidden_layers > stored:  # before as many modules are made
            wanted = f"num_hidden_layers is {config.num_hidden_layers}"
            raise CheckpointError(f"{checkpoint.where}: there are {stored} tensors, but {wanted}: most are missing")
        try:
            with torch.device("meta"), _Undrawn():  # no memory, and no random numbers, for weights soon replaced
                model = cls(config)
        except (RuntimeError, OverflowError, TypeError) as error:
            raise CheckpointError(f"{checkpoint.where}: no tensor can be as large as asked for: {error}") from None
        shapes = {key: weight.shape for key, weight in model.state_dict().items()}
        return model, fit(checkpoint.where, config, checkpoint.weights, shapes)

    def save_pretrained(self, directory: str | os.PathLike[str], max_shard_size: int = MAX_SHARD_SIZE) -> None:
        """Makes `directory` this checkpoint, in one instant: a kill leaves the old one or the new.

        Weights above `max_shard_size` bytes are split, with an index. Other files stay. Raises OSError.
        """
        state = {key: weight.detach() for key, weight in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del state[HEAD]
        dtype = state[EMBEDDING].dtype
        here = Path(directory)
        weights = {key: Weight(here, key, tuple(w.shape), w.dtype, w.contiguous) for key, w in state.items()}
        files = checkpoint_files(
            self.config, self.generation_config, weights, dtype, lambda weight: weight.read(), max_shard_size
        )
        replace_checkpoint(here, files)


class _Undrawn(TorchFunctionMode):
    """Leaves out the random numbers of an initialisation; on the meta device each draw of none costs milliseconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)


def read_checkpoint(directory: Path, ignore: Collection[str] = (), strip_prefix: str = "") -> Checkpoint:
    """What a Hugging Face directory holds, weights unread. Raises CheckpointError."""
    check_directory(directory)
    config, generation = read_config(directory / CONFIG, ignore), _read_generation(directory / GENERATION)
    if names := config_file.unused(read_json(directory / CONFIG)):
        logger.warning("%s: not used, since they say nothing about the mathematics: %s", CONFIG, ", ".join(names))
    config = dataclasses.replace(config, eos_token_id=_union(config.eos_token_id, generation.get("eos_token_id")))
    if exists(directory / ADAPTER):
        logger.warning("%s is not applied: %s", directory / ADAPTER, adapter(directory))
    where, weights = read_weights(directory, strip_prefix)
    return Checkpoint(where, config, weights, generation)


def read_config(path: Path, ignore: Collection[str] = ()) -> LlamaConfig:
    """The configuration in a `config.json`, without the keys to ignore.

    Raises CheckpointError naming file and field.
    """
    try:
        return config_file.from_dict(read_json(path), ignore)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read_generation(path: Path) -> dict[str, Any]:
    if not exists(path):
        return {}
    content = read_json(path)
    try:
        check(path.name, content, "an object", lambda v: isinstance(v, dict))
        check("eos_token_id", content.get("eos_token_id"), *TOKENS)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return dict(content)


def _union(first: int | list[int] | None, second: int | list[int] | None) -> int | list[int] | None:
    """Both files' stop ids, the first one's before the second one's; the first as it is, where that says it all.

    The instruct models of Llama 3 end a turn with an id that only generation_config.json names (vllm#4180).
    """
    ids, more = ([v] if isinstance(v, int) else v or [] for v in (first, second))
    new = [i for i in dict.fromkeys(more) if i not in ids]
    if not new:
        return first
    return [*ids, *new] if ids else second
