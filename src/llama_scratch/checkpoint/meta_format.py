r"""Meta's own format: params.json, and consolidated.00.pth, .01, … one for each part of a model-parallel run.

Every part holds every tensor's name and its share of it: rows of what splits its output (wq, wk, wv, w1, w3, output),
columns of what splits its input (wo, w2), all of a norm. The embedding is split by columns in Llama 1 and 2 and by rows
in Llama 3, which its shape tells. The head is stored even where it is the embedding; then it is left out.

Rotary turns channels 2i and 2i + 1 of a head, where Hugging Face turns i and i + H/2, so the rows of W_q and W_k are
put in another order, within each of their own N and G heads.

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
from llama_scratch.checkpoint.torch_file import read_tensors
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError

ROWS, COLUMNS, WHOLE = 0, 1, None
# name in a layer -> Hugging Face's, and the axis that the parts are joined along
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
    """The checkpoint in `directory`, weights unread. Raises CheckpointError naming file and key."""
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


def to_half_split(key: str, weight: Weight, config: LlamaConfig) -> Weight:
    """The weight with its rows in Hugging Face's order, if it is one of those that rotary turns."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
    if heads is None or weight.shape[0] != heads * config.head_dim:  # a shape that does not fit is said elsewhere
        return weight
    return Weight(
        weight.path, weight.name, weight.shape, weight.dtype, lambda: interleaved_to_half_split(weight.read(), heads)
    )


def interleaved_to_half_split(weight: Tensor, heads: int) -> Tensor:
    """Row 2i + j of a head becomes row i + jH/2."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _read_parts(directory: Path) -> list[dict[str, Tensor]]:
    found = sorted(path.name for path in directory.glob("consolidated*.pth"))
    wanted = [f"consolidated.{i:02}.pth" for i in range(len(found) or 1)]
    if found != wanted:
        missing = next((name for name in wanted if name not in found), wanted[0])
        raise CheckpointError(f"{directory / missing} is missing; there are {found}")
    parts = [read_tensors(directory / name) for name in wanted]
    for name, part in zip(wanted, parts, strict=True):
        if differ := sorted(part.keys() ^ parts[0].keys()):
            raise CheckpointError(f"{directory / name}: {differ[0]} is not in every part")
    return parts


def meta_names(where: Path, layers: int, parts: list[dict[str, Tensor]]) -> dict[str, tuple[str, int | None]]:
    """Hugging Face's key -> Meta's, and the axis. Raises CheckpointError naming what is missing or unexpected."""
    stored = parts[0].keys() - {FREQUENCIES}  # they follow from params.json
    if layers > len(stored):  # before as many names are made
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
    """Whether the parts have all channels of some words, or some channels of all."""
    embedding, norm = part[EMBEDDINGS], part[NORM]
    if embedding.ndim != 2 or norm.ndim != 1:
        shapes = f"{tuple(embedding.shape)} and {tuple(norm.shape)}"
        raise CheckpointError(f"{where}: {EMBEDDINGS} and {NORM} have shapes {shapes}, expected two axes and one")
    return ROWS if embedding.shape[1] == norm.shape[0] else COLUMNS


def _join(where: Path, name: str, parts: list[dict[str, Tensor]], axis: int | None) -> Weight:
    """One tensor of its shares. Raises CheckpointError where they do not fit together."""
    shares = [part[name] for part in parts]
    shape, dtype = list(shares[0].shape), shares[0].dtype
    if any((share.shape, share.dtype) != (shares[0].shape, dtype) for share in shares):
        raise CheckpointError(f"{where}: {name} has shapes {[tuple(s.shape) for s in shares]}, expected equal parts")
    if axis is None:
        if any(not torch.equal(share, shares[0]) for share in shares):
            raise CheckpointError(f"{where}: {name} differs between the parts, expected the same in each")
        return Weight(where, name, tuple(shape), dtype, shares[0].clone)
    if len(shape) != 2:
        raise CheckpointError(f"{where}: {name} has shape {tuple(shape)}, expected two axes")
    shape[axis] *= len(shares)
    return Weight(where, name, tuple(shape), dtype, partial(torch.cat, shares, axis))
