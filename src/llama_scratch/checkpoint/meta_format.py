r"""Meta's own format: params.json, and consolidated.00.pth, .01, … one for each part of a model-parallel run.

Every part holds a shard of every tensor: rows of column-parallel weights (wq, wk, wv, w1, w3, output), columns of
row-parallel ones (wo, w2), and each norm as a whole. The embedding is split by columns in Llama 1 and 2 and by rows in
Llama 3, as its shape shows. The head is stored even if it is the embedding; then it is dropped. The rows of W_q and W_k
are reordered (rotary_layout.py).

Touvron et al. 2023, "Llama 2"; the code published with it as meta-llama/llama, and meta-llama/llama-models.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.matching import EMBEDDING, HEAD, identical
from llama_scratch.checkpoint.meta_params import PARAMS, read_params, to_config
from llama_scratch.checkpoint.rotary_layout import to_half_split
from llama_scratch.checkpoint.torch_file import read_tensors
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.model.config_rules import ConfigError

ROWS, COLUMNS, WHOLE = 0, 1, None
# name in a layer -> Hugging Face's name, and the axis along which the parts are joined
LAYER = {
    "attention_norm": ("input_layernorm", WHOLE),
    "attention.wq": ("self_attn.q_proj", ROWS),
    "attention.wk": ("self_attn.k_proj", ROWS),
    "attention.wv": ("self_attn.v_proj", ROWS),
    "attention.wo": ("self_attn.o_proj", COLUMNS),
    "ffn_norm": ("post_attention_layernorm", WHOLE),
    "feed_forward.w1": ("mlp.gate_proj", ROWS),
    "feed_forward.w2": ("mlp.down_proj", COLUMNS),
    "feed_forward.w3": ("mlp.up_proj", ROWS),
}
EMBEDDINGS, NORM, OUTPUT, FREQUENCIES = "tok_embeddings.weight", "norm.weight", "output.weight", "rope.freqs"


def read_meta(directory: Path, llama_version: str | None = None, ignore: Collection[str] = ()) -> Checkpoint:
    """Open the checkpoint in `directory` without reading weights. Raises CheckpointError naming file and key."""
    params = read_params(directory / PARAMS, ignore)
    parts = _read_parts(directory)
    first = directory / "consolidated.00.pth"
    names = meta_names(first, params["n_layers"], parts)
    joined = {key: _join(first, name, parts, axis) for key, (name, axis) in names.items()}
    tied = HEAD not in joined or identical(joined[HEAD], joined[EMBEDDING])
    if tied:
        joined.pop(HEAD, None)
    try:
        config = to_config(params, joined[EMBEDDING].shape[0], tied, llama_version)
    except ConfigError as error:
        raise CheckpointError(f"{directory / PARAMS}: {error}") from None
    return Checkpoint(first, config, {key: to_half_split(key, weight, config) for key, weight in joined.items()})


def _read_parts(directory: Path) -> list[dict[str, Tensor]]:
    found = sorted(path.name for path in directory.glob("consolidated*.pth"))
    wanted = [f"consolidated.{i:02}.pth" for i in range(len(found) or 1)]
    if found != wanted:
        missing = next((name for name in wanted if name not in found), wanted[0])
        raise CheckpointError(f"{directory / missing} is missing; there are {found}")
    parts = [read_tensors(directory / name) for name in wanted]
    for name, part in zip(wanted, parts, strict=True):
        differences = sorted(part.keys() ^ parts[0].keys())
        if differences:
            raise CheckpointError(f"{directory / name}: {differences[0]} is not in every part")
    return parts


def meta_names(where: Path, layers: int, parts: list[dict[str, Tensor]]) -> dict[str, tuple[str, int | None]]:
    """Map Hugging Face's key to Meta's and the axis. Raises CheckpointError naming what is missing or unexpected."""
    stored = parts[0].keys() - {FREQUENCIES}  # they follow from params.json
    if layers > len(stored):  # before that many names are generated
        raise CheckpointError(f"{where}: there are {len(stored)} tensors, but n_layers is {layers}: most are missing")
    names: dict[str, tuple[str, int | None]] = {EMBEDDING: (EMBEDDINGS, ROWS), "model.norm.weight": (NORM, WHOLE)}
    for i in range(layers):
        for meta, (key, axis) in LAYER.items():
            names[f"model.layers.{i}.{key}.weight"] = (f"layers.{i}.{meta}.weight", axis)
    if OUTPUT in stored:
        names[HEAD] = (OUTPUT, ROWS)
    wanted = {name for name, _ in names.values()}
    problems = [f"{name} is missing" for name in sorted(wanted - stored)]
    problems += [f"{name} is unexpected" for name in sorted(stored - wanted)]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems[:8])}")
    return names | {EMBEDDING: (EMBEDDINGS, _embedding_axis(where, parts[0]))}


def _embedding_axis(where: Path, part: dict[str, Tensor]) -> int:
    """Axis of the embedding along which the parts are joined."""
    embedding, norm = part[EMBEDDINGS], part[NORM]
    if embedding.ndim != 2 or norm.ndim != 1:
        shapes = f"{tuple(embedding.shape)} and {tuple(norm.shape)}"
        raise CheckpointError(f"{where}: {EMBEDDINGS} and {NORM} have shapes {shapes}, expected two axes and one")
    return ROWS if embedding.shape[1] == norm.shape[0] else COLUMNS


def _join(where: Path, name: str, parts: list[dict[str, Tensor]], axis: int | None) -> Weight:
    """Join the shards of a tensor. Raises CheckpointError if they do not match."""
    shards = [part[name] for part in parts]
    shape = list(shards[0].shape)
    dtype = shards[0].dtype
    if any((shard.shape, shard.dtype) != (shards[0].shape, dtype) for shard in shards):
        raise CheckpointError(f"{where}: {name} has shapes {[tuple(s.shape) for s in shards]}, expected equal parts")
    if axis is None:
        if any(not torch.equal(shard, shards[0]) for shard in shards):
            raise CheckpointError(f"{where}: {name} differs between the parts, expected the same in each")
        return Weight(where, name, tuple(shape), dtype, shards[0].clone)
    if len(shape) != 2:
        raise CheckpointError(f"{where}: {name} has shape {tuple(shape)}, expected two axes")
    shape[axis] *= len(shards)
    return Weight(where, name, tuple(shape), dtype, partial(torch.cat, shards, axis))
