"""What an adapter needs where a Llama keeps to other conventions than transformers.

    names       maps of other names: META, TORCHTUNE, LITGPT, GPT_NEOX, CS336; name, rename
    weights     fuse_qkv, fuse_gate_up; interleaved, half_split, exchanged, permute_qk; load; Built has a model's parts
                by their names: parameters, rms_norm and swiglu then are adapters' functions as they stand
    positions   only: what it has of a configuration; input_pos, offset, from_zero: what it has of positions;
                visible, additive: masks
    caches      HeldCache: of a model that keeps its cache inside; RowCache, row_by_row: of one without padding;
                crop and reorder then are adapters' functions as they stand
    programs    token_by_token: logits of a program that takes a token and its place

All of them move or copy numbers, and compute none: what is judged stays the model's own arithmetic.
"""

from llama_reference.conventions.caches import HeldCache, RowCache, crop, reorder, row_by_row, token_by_token
from llama_reference.conventions.names import CS336, GPT_NEOX, LITGPT, META, TORCHTUNE, name, rename
from llama_reference.conventions.positions import additive, from_zero, input_pos, offset, only, visible
from llama_reference.conventions.weights import (
    Built,
    exchanged,
    fuse_gate_up,
    fuse_qkv,
    half_split,
    interleaved,
    load,
    parameters,
    permute_qk,
    rms_norm,
    swiglu,
)

__all__ = [
    "CS336",
    "GPT_NEOX",
    "LITGPT",
    "META",
    "TORCHTUNE",
    "Built",
    "HeldCache",
    "RowCache",
    "additive",
    "crop",
    "exchanged",
    "from_zero",
    "fuse_gate_up",
    "fuse_qkv",
    "half_split",
    "input_pos",
    "interleaved",
    "load",
    "name",
    "offset",
    "only",
    "parameters",
    "permute_qk",
    "rename",
    "reorder",
    "rms_norm",
    "row_by_row",
    "swiglu",
    "token_by_token",
    "visible",
]
