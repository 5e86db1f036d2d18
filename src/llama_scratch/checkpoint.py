"""A directory on disk, in Hugging Face's format, <-> a Llama.

    config.json            the configuration, of any vintage
    model.safetensors      every parameter under its Hugging Face name; a tied head is not stored

Loading is strict: a missing, unexpected or misshapen tensor is an error that names it, never a random weight.
Each file is saved under a temporary name, flushed to disk, then renamed, so that a crash leaves the old one or the new.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llama_scratch import config_file
from llama_scratch.config_rules import ConfigError

if TYPE_CHECKING:
    from llama_scratch.config import LlamaConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class CheckpointError(Exception):
    """A directory that cannot be loaded; the message names the file and the key."""


class Pretrained(nn.Module):
    """Loading and saving, for the model to inherit."""

    config: LlamaConfig

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """The model in `directory`, in eval mode.

        dtype None keeps the checkpoint's own, by transformers' rule: what config.json says, or else what is stored.
        Raises CheckpointError, naming file and key.
        """
        config = read_config(Path(directory) / CONFIG)
        weights = _read_weights(Path(directory) / WEIGHTS, device)
        with torch.device("meta"):  # no memory and no random numbers for weights that are about to be replaced
            model = cls(config)
        _check_weights(Path(directory) / WEIGHTS, weights, dict(model.state_dict()), config.tie_word_embeddings)
        if dtype is None:
            dtype = getattr(torch, config.dtype) if config.dtype else weights[EMBEDDING].dtype
        weights = {key: weight.to(dtype) for key, weight in weights.items()}
        if config.tie_word_embeddings:
            weights[HEAD] = weights[EMBEDDING]
        model.load_state_dict(weights, assign=True)
        model.tie_weights()  # type: ignore[operator]
        return model.eval()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors into `directory`, which is made if it is not there."""
        weights = {key: weight.detach().contiguous() for key, weight in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del weights[HEAD]
        dtype = str(weights[EMBEDDING].dtype).removeprefix("torch.")
        config = config_file.to_dict(dataclasses.replace(self.config, dtype=dtype))
        Path(directory).mkdir(parents=True, exist_ok=True)
        write_file(Path(directory) / WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
        write_json(Path(directory) / CONFIG, config)


def read_json(path: Path) -> Any:
    """The parsed file. Raises CheckpointError when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None


def write_json(path: Path, content: Any) -> None:
    """Writes `content`, indented, through `write_file`."""
    write_file(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a temporary file beside `path`, flushes it to disk and renames it: all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_config(path: Path) -> LlamaConfig:
    """The configuration in a `config.json`. Raises CheckpointError naming file and field."""
    try:
        return config_file.from_dict(read_json(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    missing = isinstance(error, FileNotFoundError)
    return CheckpointError(f"{path} is missing" if missing else f"{path} cannot be read: {error}")


def _read_weights(path: Path, device: torch.device | str | None) -> dict[str, Tensor]:
    """Every tensor of the file, memory-mapped, but for the rotary frequencies that files of 2023 repeat a layer."""
    try:
        with safe_open(path, framework="pt", device=str(device or "cpu")) as file:
            keys = [key for key in file.keys() if not key.endswith(".rotary_emb.inv_freq")]  # noqa: SIM118
            return {key: file.get_tensor(key) for key in keys}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _check_weights(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor], tied: bool) -> None:
    """Raises CheckpointError naming every key that is missing, unexpected, misshapen or no floating-point tensor."""
    if tied and HEAD in weights and EMBEDDING in weights and not torch.equal(weights[HEAD], weights[EMBEDDING]):
        raise CheckpointError(f"{path}: {HEAD} differs from {EMBEDDING}, but config.json says tie_word_embeddings")
    problems = [f"{key} is missing" for key in expected if key not in weights and not (tied and key == HEAD)]
    problems += [f"{key} is unexpected" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        found, wanted = tuple(weights[key].shape), tuple(expected[key].shape)
        if found != wanted:
            problems.append(f"{key} has shape {found}, expected {wanted}")
        if not weights[key].is_floating_point():
            problems.append(f"{key} holds {weights[key].dtype}, expected a floating-point type")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"{path}: {'; '.join(problems[:8])}{more}")
