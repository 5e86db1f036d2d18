"""A .bin of llama2.c, as its run.c reads it: the first form, without a version, or version 1; float32 throughout."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from llama_reference.checkpoints.names import META
from llama_reference.checkpoints.stored import Numbers, Stored, Weight
from llama_reference.command_line import UsageError
from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, NORM, part_of
from llama_reference.conventions.weights import half_split
from llama_reference.implementation import Config

MAGIC = 0x616B3432
HEADER_OF_1 = 256  # bytes
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
NORMS = ("attention_norm", "ffn_norm")
FIRST_FORM = ("attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
              "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")  # fmt: skip


def read(path: Path) -> Stored:
    with path.open("rb") as file:
        head = file.read(HEADER_OF_1)
    if len(head) < 28:
        raise UsageError(f"{path}: {len(head)} bytes: neither GGUF nor a .bin of llama2.c")
    first, version, *numbers = struct.unpack("<9i", head[:36]) if len(head) >= 36 else (0, 0)
    if first == MAGIC and version != 1:
        raise UsageError(f"{path}: version {version} of llama2.c's format, expected the first form or version 1")
    sizes = numbers if first == MAGIC else struct.unpack("<7i", head[:28])
    size = path.stat().st_size
    if min(map(abs, sizes)) == 0 or 4 * math.prod(sizes[:3]) > size:  # before that many names are made
        raise UsageError(f"{path}: {size} bytes, too few for the sizes in its header: {tuple(sizes)}")
    fields = _fields(list(sizes))
    if first == MAGIC:
        fields["tie_word_embeddings"] = bool(head[36])
    start = HEADER_OF_1 if first == MAGIC else 28
    order = _order_of_1(fields) if first == MAGIC else _order_of_first(fields, sizes[6])
    weights: dict[str, Weight] = {}
    for name, shape in order:
        if name:
            heads = {"q_proj": fields["num_attention_heads"], "k_proj": fields["num_key_value_heads"]}
            weights[name] = Weight(shape, "float32", partial(_tensor, path, start, shape, heads.get(part_of(name))))
        start += 4 * math.prod(shape)
    if size != start:
        raise UsageError(f"{path}: {size} bytes, expected {start} by the sizes in its header: {tuple(sizes)}")
    return Stored(path, "llama2.c", fields, weights, pairs=True)


def _fields(sizes: list[int]) -> Config:
    fields: Config = dict(zip(SIZES, sizes, strict=False))
    return fields | {
        "vocab_size": abs(sizes[5]),
        "tie_word_embeddings": sizes[5] > 0,
        "head_dim": fields["hidden_size"] // max(fields["num_attention_heads"], 1),
        "rms_norm_eps": 1e-5,  # these three are run.c's own
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "hidden_act": "silu",
    }


def _shapes(fields: Config) -> dict[str, tuple[int, ...]]:
    D = fields["hidden_size"]
    F = fields["intermediate_size"]
    queries = fields["num_attention_heads"] * fields["head_dim"]
    keys = fields["num_key_value_heads"] * fields["head_dim"]
    return {
        "attention_norm": (D,), "ffn_norm": (D,),
        "attention.wq": (queries, D), "attention.wk": (keys, D),
        "attention.wv": (keys, D), "attention.wo": (D, queries),
        "feed_forward.w1": (F, D), "feed_forward.w2": (D, F), "feed_forward.w3": (F, D),
    }  # fmt: skip


Order = Iterator[tuple[str, tuple[int, ...]]]


def _layers(fields: Config, part: str) -> Order:
    for layer in range(fields["num_hidden_layers"]):
        yield f"model.layers.{layer}.{META[part]}.weight", _shapes(fields)[part]


def _order_of_first(fields: Config, context: int) -> Order:
    embedding = (fields["vocab_size"], fields["hidden_size"])
    yield EMBEDDING, embedding
    for part in FIRST_FORM:
        yield from _layers(fields, part)
    yield NORM, (fields["hidden_size"],)
    yield "", (context, fields["head_dim"])  # cosines and sines, which run.c skips
    if not fields["tie_word_embeddings"]:
        yield HEAD, embedding


def _order_of_1(fields: Config) -> Order:
    embedding = (fields["vocab_size"], fields["hidden_size"])
    for part in NORMS:
        yield from _layers(fields, part)
    yield NORM, (fields["hidden_size"],)
    yield EMBEDDING, embedding
    for part in FIRST_FORM:
        if part not in NORMS:
            yield from _layers(fields, part)
    if not fields["tie_word_embeddings"]:
        yield HEAD, embedding


def _tensor(path: Path, start: int, shape: tuple[int, ...], heads: int | None) -> Numbers:
    numbers = torch.frombuffer(bytearray(_bytes(path, start, 4 * math.prod(shape))), dtype=torch.float32).view(shape)
    return Numbers(numbers if heads is None else half_split(numbers, heads, 0))


def _bytes(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
