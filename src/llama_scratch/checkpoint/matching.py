"""Match weights with those that a configuration requires.

`tie_word_embeddings`  embedding only    head only         both, equal     both, different
true                   tied              tied              tied            refused: the two contradict each other
false                  head is missing   embed. missing    two tensors     two tensors

(transformers makes the last of the first row two tensors with a warning, and the first two of the second row random.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llama_scratch.checkpoint import prefixes
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.weight_files import Weight
from llama_scratch.command_line import this_python
from llama_scratch.model.config import LlamaConfig

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHOWN = 8


def match_weights(
    where: Path, config: LlamaConfig, weights: Mapping[str, Weight], shapes: Mapping[str, torch.Size]
) -> dict[str, Weight]:
    """Return the weights of `shapes`, those of the model, in its order and without a tied head.

    Raises CheckpointError naming every key that is missing or unexpected, or has a wrong shape or dtype.
    """
    weights = dict(weights)
    wanted = dict(shapes)
    if config.tie_word_embeddings:
        _drop_tied_head(where, weights)
        wanted.pop(HEAD, None)
    missing = [key for key in wanted if key not in weights]
    _refuse_prefix(where, missing, [weight.name for key, weight in weights.items() if key not in wanted])
    problems = [f"{key} is missing" for key in missing]
    for key, weight in weights.items():
        name = weight.name if weight.path == where else f"{weight.path.name}: {weight.name}"
        if key not in wanted:
            problems.append(f"{name} is unexpected")
        elif weight.shape != (shape := tuple(wanted[key])):
            problems.append(f"{name} has shape {weight.shape}, expected {shape}")
        elif weight.dtype not in FLOATS:
            problems.append(f"{name} holds {weight.dtype}, expected a floating-point type")
    if problems:
        shown = _both(problems, len(missing))
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CheckpointError(f"{where}: {'; '.join(shown)}{more}")
    return {key: weights[key] for key in wanted}


def _both(problems: list[str], missing: int) -> list[str]:
    """Select a few missing and a few unexpected keys, which together show what the file is."""
    there = min(len(problems) - missing, SHOWN // 2)
    return problems[: min(missing, SHOWN - there)] + problems[missing:][: max(there, SHOWN - missing)]


def _refuse_prefix(where: Path, missing: list[str], unexpected: list[str]) -> None:
    """Raise CheckpointError if keys have a common prefix."""
    prefix, pairs = prefixes.pairs(missing, unexpected)
    if not pairs:
        return
    shown = "; ".join(f"{name} is there, {key} is missing" for name, key in pairs[:2])
    more = f"; and {len(pairs) - 2} more such pairs" if len(pairs) > 2 else ""
    others = [name for name in unexpected if not name.startswith(prefix)]
    rest = f"; {others[0]} is unexpected" if others else ""
    how = f"{this_python()} -m llama_scratch.convert --strip-prefix {prefix} {where.parent} NEW_DIRECTORY"
    raise CheckpointError(f"{where}: keys have the prefix {prefix!r}: {shown}{more}{rest}; strip it: {how}")


def _drop_tied_head(where: Path, weights: dict[str, Weight]) -> None:
    """Keep one of a tied pair, under the embedding's key."""
    head = weights.pop(HEAD, None)
    embedding = weights.setdefault(EMBEDDING, head) if head else None
    if head and embedding and not identical(head, embedding):
        remedy = "config.json says tie_word_embeddings: make that false to load both"
        raise CheckpointError(f"{where}: {head.name} differs from {embedding.name}, but {remedy}")


def identical(a: Weight, b: Weight) -> bool:
    """Return True if two weights are equal byte for byte."""
    if a is b:
        return True
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(_as_bytes(a), _as_bytes(b))


def _as_bytes(weight: Weight) -> Tensor:
    """Read a weight as bytes, in which NaN equals itself."""
    return weight.read().reshape(-1).view(torch.uint8)


def checkpoint_dtype(config: LlamaConfig, weights: Mapping[str, Weight]) -> torch.dtype:
    """Dtype of config.json, or else of the stored embedding: transformers' rule."""
    return getattr(torch, config.dtype) if config.dtype else weights[EMBEDDING].dtype


def read(
    weight: Weight, dtype: torch.dtype, device: torch.device | str | None, check_finite: torch.dtype | None
) -> Tensor:
    """Read the tensor at `dtype` on `device`.

    check_finite: the checkpoint's dtype, to raise CheckpointError for a weight of another dtype, or if it is not finite
    after conversion.
    """
    if check_finite is not None and weight.dtype != check_finite:
        raise CheckpointError(f"{weight.path}: {weight.name} holds {weight.dtype}, expected {check_finite}")
    tensor = weight.read().to(device=device, dtype=dtype)
    if check_finite is not None and not all(torch.isfinite(extreme) for extreme in tensor.aminmax()):
        raise CheckpointError(f"{weight.path}: {weight.name} holds NaN or infinity as {dtype}, expected finite numbers")
    return tensor
