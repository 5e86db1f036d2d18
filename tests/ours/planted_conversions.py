"""Conversions that go wrong, written without the catalogue: rows are moved by index, as a converter moves them.

Each takes a configuration, the right weights in transformers' layout and whether the target pairs neighbouring
channels, and gives what a wrong converter would hand to whoever writes the file; next to it, the name of the mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llama_reference.implementation import Config, State
from tests.ours.checkpoint_writers import neighbours

Planted = tuple[Config, State]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def halves(w: Tensor, heads: int) -> Tensor:
    """The inverse of `neighbours`."""
    H = len(w) // heads
    order = [h * H + (2 * i if i < H // 2 else 2 * (i - H // 2) + 1) for h in range(heads) for i in range(H)]
    return w[order].contiguous()


def moved(parts: str, pairs_too: bool, of: str = "") -> Callable[[Config, State, bool], Planted]:
    """Rows of q and k permuted: once too often (pairs_too says towards which side), by the heads of `of`."""

    def plant(config: Config, state: State, pairs: bool) -> Planted:
        permute = neighbours if pairs_too == pairs else halves
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}

        def change(key: str, w: Tensor) -> Tensor:
            part = key.split(".")[-2]
            return permute(w, heads[of or part]) if part in parts.split() else w

        return config, {key: change(key, w) for key, w in state.items()}

    return plant


def wrong_heads(part: str, other: str) -> Callable[[Config, State, bool], Planted]:
    """The rows of one part permuted with the number of heads of the other."""

    def plant(config: Config, state: State, pairs: bool) -> Planted:
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        there, back = (halves, neighbours) if pairs else (neighbours, halves)
        return config, {
            key: back(there(w, heads[part]), heads[other]) if f".{part}." in key else w for key, w in state.items()
        }

    return plant


def each(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Config, State, bool], Planted]:
    return lambda config, state, _: (config, {k: change(w).contiguous() if part in k else w for k, w in state.items()})


def holding(names: Callable[[str], str]) -> Callable[[Config, State, bool], Planted]:
    """Every name holds the tensor of another."""
    return lambda config, state, _: (config, {key: state.get(names(key), state[key]).clone() for key in state})


def exchange(one: str, other: str) -> Callable[[Config, State, bool], Planted]:
    def name(key: str) -> str:
        return key.replace(one, other) if one in key else key.replace(other, one)

    return holding(name)


def layers(which: Callable[[int, int], int]) -> Callable[[Config, State, bool], Planted]:
    """Layer i of n holds the tensors of layer which(i, n)."""

    def plant(config: Config, state: State, pairs: bool) -> Planted:
        def name(key: str) -> str:
            parts = key.split(".")
            if parts[1:2] == ["layers"]:
                parts[2] = str(which(int(parts[2]), config["num_hidden_layers"]))
            return ".".join(parts)

        return holding(name)(config, state, pairs)

    return plant


def fused(parts: tuple[str, ...], by_group: bool) -> Callable[[Config, State, bool], Planted]:
    """Cut out of a fused tensor of the other order; by_group: it is ordered by group, or row by row."""

    def plant(config: Config, state: State, _: bool) -> Planted:
        G = (
            config["num_key_value_heads"]
            if parts[0] == "q_proj"
            else len(state[f"model.layers.0.mlp.{parts[0]}.weight"])
        )
        planted = dict(state)
        for key in state:
            if f".{parts[0]}." in key:
                keys = [key.replace(parts[0], part) for part in parts]
                sizes = [len(state[k]) // G for k in keys]
                starts = [sum(len(state[k]) for k in keys[:i]) for i in range(len(keys))]
                rows = [
                    start + g * size + i
                    for g in range(G)
                    for start, size in zip(starts, sizes, strict=True)
                    for i in range(size)
                ]
                whole = torch.cat([state[k] for k in keys])
                order = rows if by_group else torch.tensor(rows).argsort().tolist()
                for k, start in zip(keys, starts, strict=True):
                    planted[k] = whole[order][start : start + len(state[k])].clone()
        return config, planted

    return plant


def drawn(keys: Callable[[str], bool]) -> Callable[[Config, State, bool], Planted]:
    """Matrices as they are initialised, norms of ones."""
    generator = torch.Generator().manual_seed(1)

    def fresh(w: Tensor) -> Tensor:
        return (0.02 * torch.randn(w.shape, generator=generator)).to(w.dtype) if w.dim() == 2 else torch.ones_like(w)

    return lambda config, state, _: (config, {key: fresh(w) if keys(key) else w for key, w in state.items()})


def field(**changes) -> Callable[[Config, State, bool], Planted]:
    return lambda config, state, _: (config | changes, state)


def tiled(config: Config, state: State, _: bool) -> Planted:
    """Key heads 0 1 0 1 where 0 0 1 1 belong."""
    G = config["num_key_value_heads"]
    R = config["num_attention_heads"] // G

    def change(w: Tensor) -> Tensor:
        return torch.cat([w] * R)

    planted = {k: change(w) if ".k_proj." in k or ".v_proj." in k else w for k, w in state.items()}
    return config | {"num_key_value_heads": G * R}, planted


def padded(config: Config, state: State, _: bool) -> Planted:
    more = torch.zeros(27, config["hidden_size"])
    planted = {k: torch.cat((w, more.to(w.dtype))) if k in (EMBEDDING, HEAD) else w for k, w in state.items()}
    return config | {"vocab_size": config["vocab_size"] + 27}, planted


def reread(stored: torch.dtype, as_: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda w: w.to(stored).view(as_).to(w.dtype)


SHARDED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
# plant -> the mistake's name; those that a format cannot hold are left out by the test
PLANTED: dict[str, tuple[str, Callable[[Config, State, bool], Planted]]] = {
    "q and k as they were": ("qk_not_permuted", moved("q_proj k_proj", pairs_too=False)),
    "q and k permuted once more": ("qk_permuted_twice", moved("q_proj k_proj", pairs_too=True)),
    "k as it was": ("k_not_permuted", moved("k_proj", pairs_too=False)),
    "q as it was": ("q_not_permuted", moved("q_proj", pairs_too=False)),
    "k by query heads": ("k_permuted_with_query_heads", wrong_heads("k_proj", "q_proj")),
    "q by key heads": ("q_permuted_with_key_heads", wrong_heads("q_proj", "k_proj")),
    "qkv by group, cut in blocks": ("qkv_by_group_cut_in_blocks", fused(("q_proj", "k_proj", "v_proj"), True)),
    "qkv in blocks, cut by group": ("qkv_in_blocks_cut_by_group", fused(("q_proj", "k_proj", "v_proj"), False)),
    "gate and up by rows, cut in blocks": ("gate_up_row_by_row_cut_in_blocks", fused(("gate_proj", "up_proj"), True)),
    "gate and up in blocks, cut by rows": ("gate_up_in_blocks_cut_row_by_row", fused(("gate_proj", "up_proj"), False)),
    "gate is up": ("gate_and_up_exchanged", exchange("gate_proj", "up_proj")),
    "k is v": ("keys_and_values_exchanged", exchange("k_proj", "v_proj")),
    "v from k": ("values_are_keys", holding(lambda key: key.replace("v_proj", "k_proj"))),
    "k from v": ("keys_are_values", holding(lambda key: key.replace("k_proj", "v_proj"))),
    "o transposed": ("square_transposed", each("o_proj.weight", lambda w: w.T)),
    "q transposed": ("square_transposed", each("q_proj.weight", lambda w: w.T)),
    "shards of up": ("shards_exchanged", each("up_proj.weight", lambda w: w.roll(len(w) // 2, 0))),
    "shards of down": ("shards_exchanged", each("down_proj.weight", lambda w: w.roll(w.shape[1] // 2, 1))),
    "shards of every column": ("shards_exchanged", lambda config, state, _: (config, {
        k: w.roll(len(w) // 2, 0) if k.split(".")[-2] in SHARDED else w for k, w in state.items()})),
    "key heads in turn": ("key_heads_tiled", tiled),
    "one layer twice": ("layer_before", layers(lambda i, _: 1 if i == 2 else i)),
    "one layer left out": ("layer_after", layers(lambda i, n: min(i + 1, n - 1) if i >= 2 else i)),
    "the first for all": ("first_layer_for_all", layers(lambda _i, _n: 0)),
    "the last for all": ("last_layer_for_all", layers(lambda _i, n: n - 1)),
    "upside down": ("layers_in_reverse", layers(lambda i, n: n - 1 - i)),
    "1 + w": ("gains_off_by_one", each("norm.weight", lambda w: w + 1)),
    "w - 1": ("gains_off_by_one", each("norm.weight", lambda w: w - 1)),
    "norms of ones": ("gains_not_loaded", each("norm.weight", torch.ones_like)),
    "norms exchanged": ("norms_exchanged", exchange("input_layernorm", "post_attention_layernorm")),
    "the last norm": ("final_norm_from_a_layer", lambda config, state, _: (config, state | {"model.norm.weight": state[
        f"model.layers.{config['num_hidden_layers'] - 1}.post_attention_layernorm.weight"].clone()})),
    "no head": ("embedding_as_head", lambda config, state, _: (
        config | {"tie_word_embeddings": True}, {k: w for k, w in state.items() if k != HEAD})),
    "the head twice": ("head_as_embedding", holding(lambda key: HEAD if key == EMBEDDING else key)),
    "a random head": ("left_at_initialisation", drawn(lambda key: key == HEAD)),
    "a layer not loaded": ("left_at_initialisation", drawn(lambda key: "layers.2." in key)),
    "Gemma's scale": ("embedding_scaled", each(EMBEDDING, lambda w: w * math.sqrt(w.shape[1]))),
    "ids off by one": ("rows_moved_by_one", lambda config, state, _: (config, {
        k: w.roll(1, 0) if k in (EMBEDDING, HEAD) else w for k, w in state.items()})),
    "rows that pad": ("vocabulary_padded", padded),
    "scaled twice": ("scale_folded_into_q", lambda config, state, _: (config, {
        k: w / math.sqrt(config["head_dim"]) if ".q_proj." in k else w for k, w in state.items()})),
    "bfloat16 as float16": ("bfloat16_read_as_float16", each("proj.weight", reread(torch.bfloat16, torch.float16))),
    "float16 as bfloat16": ("float16_read_as_bfloat16", each("proj.weight", reread(torch.float16, torch.bfloat16))),
    "through bfloat16": ("rounded_to_bfloat16", each("", lambda w: w.bfloat16().to(w.dtype))),
    "through float16": ("rounded_to_float16", each("", lambda w: w.half().to(w.dtype))),
    "theta": ("theta_lost", field(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "eps": ("eps_lost", field(rms_norm_eps=1e-6)),
    "key heads": ("key_heads_lost", field(num_key_value_heads=4)),
}  # fmt: skip
