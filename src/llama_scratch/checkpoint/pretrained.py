"""A directory in Hugging Face's format <-> a Llama.

Loading is strict: a missing, unexpected or wrongly shaped tensor is an error that names it, never a random weight.
Weights are memory-mapped, and the model is built on the meta device, so that they are in memory once. saving.py
explains how saving is atomic.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.hf_directory import read_checkpoint
from llama_scratch.checkpoint.hf_files import MAX_SHARD_SIZE, checkpoint_files
from llama_scratch.checkpoint.matching import EMBEDDING, HEAD, checkpoint_dtype, match_weights, read
from llama_scratch.checkpoint.saving import replace_checkpoint
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.model import llama


class Llama(llama.Llama):
    """The model, with loading and saving: the class that users see."""

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
        """Load the model in `directory`, in eval mode.

        dtype: None for the checkpoint's own, by transformers' rule: that of config.json, or else of what is stored.
        ignore: keys of config.json to leave unread. check_finite: read every weight, and refuse NaN, infinity and a
        tensor of another dtype. config.eos_token_id is the union of the stop ids of config.json and
        generation_config.json. Raises CheckpointError naming file and key.
        """
        checkpoint = read_checkpoint(Path(directory), ignore)
        model, weights = cls.empty_model_and_weights(checkpoint)
        own = checkpoint_dtype(checkpoint.config, weights)
        required = own if check_finite else None
        state = {key: read(weight, dtype or own, device, required) for key, weight in weights.items()}
        if checkpoint.config.tie_word_embeddings:
            state[HEAD] = state[EMBEDDING]
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        model.generation_config = checkpoint.generation
        return model.eval()

    @classmethod
    def empty_model_and_weights(cls, checkpoint: Checkpoint) -> tuple[Self, dict[str, Weight]]:
        """Build a model without weights, and select those that it needs, unread. Raises CheckpointError."""
        config, stored = checkpoint.config, len(checkpoint.weights)
        if config.num_hidden_layers > stored:  # before that many modules are built
            wanted = f"num_hidden_layers is {config.num_hidden_layers}"
            raise CheckpointError(f"{checkpoint.where}: there are {stored} tensors, but {wanted}: most are missing")
        try:
            with torch.device("meta"), _SkipInit():  # neither memory nor random numbers for weights that are replaced
                model = cls(config)
        except (RuntimeError, OverflowError, TypeError) as error:
            raise CheckpointError(f"{checkpoint.where}: its tensors are too large: {error}") from None
        shapes = {key: weight.shape for key, weight in model.state_dict().items()}
        return model, match_weights(checkpoint.where, config, checkpoint.weights, shapes)

    def save_pretrained(self, directory: str | os.PathLike[str], max_shard_size: int = MAX_SHARD_SIZE) -> None:
        """Save this checkpoint to `directory` atomically: a kill leaves the old one or the new one.

        Weights above `max_shard_size` bytes are split, with an index. Other files stay. Raises OSError.
        """
        state = {key: weight.detach() for key, weight in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del state[HEAD]
        dtype = state[EMBEDDING].dtype
        path = Path(directory)
        weights = {key: Weight(path, key, tuple(w.shape), w.dtype, w.contiguous) for key, w in state.items()}
        files = checkpoint_files(
            self.config, self.generation_config, weights, dtype, lambda weight: weight.read(), max_shard_size
        )
        replace_checkpoint(path, files)


class _SkipInit(TorchFunctionMode):
    """Skips random initialisation, which costs milliseconds per tensor even on the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)
