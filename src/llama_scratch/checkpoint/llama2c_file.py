"""The .bin files of llama2.c in their first form, without a version: seven int32 and then float32 to the end.

    dim  hidden_dim  n_layers  n_heads  n_kv_heads  vocab_size  seq_len      (vocab_size < 0: the head is stored)
    embedding, then each of  attention norm, W_q, W_k, W_v, W_o, ffn norm, W_gate, W_down, W_up  for all layers, norm,
    cosines and sines of all positions (they follow from the sizes and are skipped), head

Rows of W_q and W_k are ordered as in Meta's files. Epsilon is 1e-5 and theta 10000: run.c has them built in.

karpathy/llama2.c, export.py: legacy_export; run.c: memory_map_weights.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llama_scratch.checkpoint.files import CheckpointError, size, unreadable
from llama_scratch.checkpoint.matching import EMBEDDING, HEAD
from llama_scratch.checkpoint.rotary_layout import to_half_split
from llama_scratch.checkpoint.weight_files import Checkpoint, Weight
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError

HEADER = struct.Struct("<7i")
NEWER = 0x616B3432  # "ak42": the versions with a longer header


def read_llama2c(path: Path) -> Checkpoint:
    """Open the checkpoint without reading weights. Raises CheckpointError if header and length do not match."""
    config, context = read_header(path)
    frequencies = ("", (context, config.head_dim))  # half of a head's channels, once for cosines and once for sines
    places, position = {}, HEADER.size // 4
    order = [*_order(config), frequencies]
    if not config.tie_word_embeddings:
        order.append((HEAD, _embedding_shape(config)))
    for key, shape in order:
        places[key] = (position, shape)
        position += math.prod(shape)
    if 4 * position != size(path):
        raise CheckpointError(f"{path} has {size(path)} bytes, expected {4 * position} by its header")
    del places[""]
    weights = {}
    for key, (start, shape) in places.items():
        read = partial(_read, path, position, start, shape)
        weights[key] = to_half_split(key, Weight(path, key, shape, torch.float32, read), config)
    return Checkpoint(path, config, weights)


def read_header(path: Path) -> tuple[LlamaConfig, int]:
    """Read the configuration and the number of positions. Raises CheckpointError for invalid sizes."""
    if size(path) < HEADER.size:
        raise CheckpointError(f"{path} has {size(path)} bytes, expected at least {HEADER.size}, its header")
    with path.open("rb") as file:
        header = HEADER.unpack(file.read(HEADER.size))
    if header[0] == NEWER:
        raise CheckpointError(f"{path}: version {header[1]} of the format, expected the one without a version (legacy)")
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = header
    if 4 * n_layers * dim * hidden_dim > size(path):  # before that many names are generated
        raise CheckpointError(f"{path} has {size(path)} bytes, too few for the sizes in its header: {header}")
    try:
        config = LlamaConfig(
            vocab_size=abs(vocab_size),
            hidden_size=dim,
            intermediate_size=hidden_dim,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=n_kv_heads,
            max_position_embeddings=seq_len,
            rms_norm_eps=1e-5,
            tie_word_embeddings=vocab_size > 0,
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config, seq_len


def _embedding_shape(config: LlamaConfig) -> tuple[int, int]:
    return config.vocab_size, config.hidden_size


def _order(config: LlamaConfig) -> list[tuple[str, tuple[int, ...]]]:
    """List key and shape of everything up to the last norm, in the order of the file."""
    D = config.hidden_size
    F = config.intermediate_size
    L = config.num_hidden_layers
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {"input_layernorm": (D,)}
    layer |= {"self_attn.q_proj": (queries, D), "self_attn.k_proj": (keys, D), "self_attn.v_proj": (keys, D)}
    layer |= {"self_attn.o_proj": (D, queries), "post_attention_layernorm": (D,)}
    layer |= {"mlp.gate_proj": (F, D), "mlp.down_proj": (D, F), "mlp.up_proj": (F, D)}
    layers = [(f"model.layers.{i}.{name}.weight", shape) for name, shape in layer.items() for i in range(L)]
    return [(EMBEDDING, _embedding_shape(config)), *layers, ("model.norm.weight", (D,))]


def _read(path: Path, total: int, start: int, shape: tuple[int, ...]) -> Tensor:
    """Read a memory-mapped tensor; `total` and `start` count float32, the seven of the header included."""
    try:
        numbers = torch.from_file(str(path), shared=False, size=total, dtype=torch.float32)
    except (OSError, RuntimeError) as error:
        raise unreadable(path, error) from None
    return numbers[start : start + math.prod(shape)].view(shape)
