"""A GGUF file of architecture llama, of F32, F16, BF16, Q8_0, Q4_0 or Q5_0 tensors, read by the gguf package."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_reference.checkpoints.names import of_gguf
from llama_reference.checkpoints.stored import UNCOMPARED, Numbers, Stored, Weight
from llama_reference.command_line import UsageError
from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, part_of
from llama_reference.conventions.weights import half_split
from llama_reference.implementation import Config

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# How far quantisation may move a number: by so many scales d of its block, and so many times the rounding of d, a
# float16. Q8_0 rounds to a multiple of d; Q4_0 and Q5_0 have no multiple for the number opposite to the largest, which
# moves by a whole d.
MOVED = {"Q8_0": (0.5, 127), "Q4_0": (1.0, 8), "Q5_0": (1.0, 16)}
RELATIVE, ABSOLUTE = 2**-11, 2**-25  # of float16's rounding, and of that near zero
FREQUENCIES = "rope_freqs.weight"


def read(path: Path) -> Stored:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UsageError(f"{path}: reading GGUF needs the package gguf: pip install 'llama_scratch[gguf]'") from error
    file: Any = GGUFReader(path)
    if (architecture := _value(file, "general.architecture")) != "llama":
        raise UsageError(f"{path}: architecture is {architecture!r}, expected 'llama'")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    fields = _fields(file, tensors)
    heads = {"q_proj": fields["num_attention_heads"], "k_proj": fields["num_key_value_heads"]}
    weights = {}
    for theirs, tensor in tensors.items():
        if (name := of_gguf(theirs)) is not None:
            kind = tensor.tensor_type.name
            if kind not in FLOATS and kind not in MOVED:
                known = ", ".join([*FLOATS, *MOVED])
                raise UsageError(f"{path}: {theirs} is of type {kind}; what can be compared is {known}")
            shape = tuple(reversed([int(n) for n in tensor.shape]))
            numbers = partial(_numbers, tensor, heads.get(part_of(name)))
            weights[name] = Weight(shape, FLOATS.get(kind, kind), numbers)
    factors = tensors.get(FREQUENCIES)
    divided = None if factors is None else torch.from_numpy(np.array(factors.data, dtype=np.float64))
    return Stored(path, "GGUF", fields, weights, pairs=True, rope_factors=divided, remarks=_not_compared(fields))


def _not_compared(fields: Config) -> tuple[str, ...]:
    return () if "rope_parameters" in fields else (f"{UNCOMPARED}: the file has llama.cpp's own scaling of them",)


def _value(file: Any, key: str, default: Any = None) -> Any:
    return file.fields[key].contents() if key in file.fields else default


def _fields(file: Any, tensors: dict[str, Any]) -> Config:
    def llama(key: str, default: Any = None) -> Any:
        return _value(file, f"llama.{key}", default)

    D, N = llama("embedding_length"), llama("attention.head_count")
    rope: Config = {"rope_type": "default", "rope_theta": llama("rope.freq_base", 10000.0)}
    if llama("rope.scaling.type", "none") == "linear":
        rope |= {"rope_type": "linear", "factor": llama("rope.scaling.factor")}
    head = next(name for name in tensors if of_gguf(name) == EMBEDDING)
    fields: Config = {
        "hidden_size": D,
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": N,
        "num_key_value_heads": llama("attention.head_count_kv", N),
        "head_dim": llama("attention.key_length", D // N),
        "rms_norm_eps": llama("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": llama("context_length"),
        "rope_parameters": rope,
        "vocab_size": int(tensors[head].shape[1]),
        "tie_word_embeddings": not any(of_gguf(name) == HEAD for name in tensors),
        "hidden_act": "silu",
    }
    if llama("rope.scaling.type", "none") not in ("none", "linear"):
        del fields["rope_parameters"]  # llama.cpp's scaling has other fields than transformers'
    return fields


def _numbers(tensor: Any, heads: int | None) -> Numbers:
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    found = Numbers(values, _unit(tensor.data, MOVED[kind], values.shape) if kind in MOVED else None)
    return found if heads is None else found.each(lambda w: half_split(w, heads, 0))


def _unit(data: Any, moved: tuple[float, int], shape: torch.Size) -> torch.Tensor:
    """Of blocks of 32 numbers, the first two bytes of each are its scale."""
    blocks = data.reshape(-1, data.size * 32 // shape.numel())
    scales = torch.from_numpy(blocks[:, :2].copy().view(np.float16).astype(np.float32)).abs()
    steps, roundings = moved
    unit = steps * scales + roundings * (RELATIVE * scales + ABSOLUTE)
    return unit.expand(-1, 32).reshape(shape)
