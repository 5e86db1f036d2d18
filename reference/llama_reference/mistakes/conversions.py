"""Mistakes of conversion: right weights go in, and what comes out under a name is not what belongs there.

Each gives one tensor of the converted checkpoint, in transformers' names and layout, from those of the original; so a
checkpoint of any size is held against all of them a tensor at a time. Those that lose a field of the configuration
give other fields instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, NORM, layer_of, part_of
from llama_reference.conventions.weights import half_split, interleaved
from llama_reference.implementation import Config

Permutation = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Original:
    """What is converted: its fields, and a function that gives a tensor by its name."""

    config: Config
    read: Callable[[str], Tensor]
    names: frozenset[str]
    to_pairs: bool = False
    """Whether the target pairs neighbouring channels, as Meta's format and GGUF do."""

    def heads(self, part: str) -> int:
        return int(self.config["num_attention_heads" if part == "q_proj" else "num_key_value_heads"])

    @property
    def again(self) -> Permutation:
        """What a conversion that has permuted already does by permuting once more."""
        return interleaved if self.to_pairs else half_split

    @property
    def undone(self) -> Permutation:
        """What is found where the target's permutation was not made."""
        return half_split if self.to_pairs else interleaved


Convert = Callable[[Original, str], Tensor]


def _no_field(_config: Config) -> Config:
    return {}


@dataclass(frozen=True)
class Conversion:
    """A known mistake. `ways`: what arrives under a name, in each way in which it is made."""

    name: str
    why: str
    seen: str
    ways: tuple[Convert, ...] = ()
    fields: Callable[[Config], Config] = _no_field
    """The fields of the configuration that are lost or changed, with what they become."""


def _only(parts: str, change: Callable[[Tensor, Original, str], Tensor]) -> Convert:
    """change(tensor, original, name) of these parts; the others are right."""

    def convert(original: Original, name: str) -> Tensor:
        w = original.read(name)
        return change(w, original, name) if part_of(name) in parts.split() else w

    return convert


def _permuted(parts: str, how: str, heads_of: str = "") -> Convert:
    """Rows of these parts permuted with the number of heads of one of them."""

    def change(w: Tensor, original: Original, name: str) -> Tensor:
        permutation: Permutation = getattr(original, how)
        return permutation(w, original.heads(heads_of or part_of(name)), 0)

    return _only(parts, change)


def _with_heads_of(other: str, part: str) -> Convert:
    """The rows of a part permuted with the number of heads of the other one: undone rightly, then done wrongly."""

    def change(w: Tensor, original: Original, name: str) -> Tensor:
        stored = original.undone(w, original.heads(part), 0)
        return original.again(stored, original.heads(other), 0)

    return _only(part, change)


def _weights_only(w: Tensor, original: Original, name: str) -> Tensor:
    return original.undone(w, original.heads(part_of(name)), 0) if name.endswith(".bias") else w


def _read_from(names: dict[str, str]) -> Convert:
    """Parts that hold another part's tensor."""

    def convert(original: Original, name: str) -> Tensor:
        part = part_of(name)
        return original.read(name.replace(part, names[part]) if part in names else name)

    return convert


def _from_layer(which: Callable[[int, int], int]) -> Convert:
    """Layer i holds the tensors of layer which(i, number of layers)."""

    def convert(original: Original, name: str) -> Tensor:
        layer = layer_of(name)
        if layer is None:
            return original.read(name)
        other = which(layer, original.config["num_hidden_layers"])
        return original.read(name.replace(f"layers.{layer}.", f"layers.{other}.", 1))

    return convert


def _last_norm(original: Original, name: str) -> Tensor:
    last = original.config["num_hidden_layers"] - 1
    return original.read(f"model.layers.{last}.post_attention_layernorm.weight" if name == NORM else name)


def _sorted_as_text(layer: int, count: int) -> int:
    return int(sorted(map(str, range(count)))[layer])


def _everywhere(change: Callable[[Tensor], Tensor], among: str = "") -> Convert:
    """change(tensor) of every tensor whose name contains `among`."""

    def convert(original: Original, name: str) -> Tensor:
        w = original.read(name)
        return change(w) if among in name else w

    return convert


def _fused(parts: tuple[str, ...], join: Callable[[Original, list[Tensor]], Tensor],
           divide: Callable[[Original, Tensor, list[int]], list[Tensor]]) -> Convert:  # fmt: skip
    """Parts that went through one fused tensor and were cut out of it in another way."""

    def convert(original: Original, name: str) -> Tensor:
        part = part_of(name)
        if part not in parts:
            return original.read(name)
        tensors = [original.read(name.replace(part, other)) for other in parts]
        sizes = [len(w) for w in tensors]
        return divide(original, join(original, tensors), sizes)[parts.index(part)]

    return convert


def _by_group(original: Original, tensors: list[Tensor]) -> Tensor:
    G = original.config["num_key_value_heads"]
    return torch.cat([w.unflatten(0, (G, -1)) for w in tensors], dim=1).flatten(0, 1)


def _apart_by_group(original: Original, fused: Tensor, sizes: list[int]) -> list[Tensor]:
    G = original.config["num_key_value_heads"]
    parts = fused.unflatten(0, (G, -1)).split([size // G for size in sizes], dim=1)
    return [w.flatten(0, 1) for w in parts]


def _one_after_the_other(_original: Original, tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors)


def _in_blocks(_original: Original, fused: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(fused.split(sizes))


def _row_by_row(_original: Original, tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors, dim=1).flatten(0, 1)


def _every_other(_original: Original, fused: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(fused.unflatten(0, (-1, len(sizes))).unbind(1))


def _square_transposed(w: Tensor, _original: Original, _name: str) -> Tensor:
    return w.T if w.dim() == 2 and w.shape[0] == w.shape[1] else w


def _shards_exchanged(dim: int) -> Callable[[Tensor, Original, str], Tensor]:
    """Two shards of model parallelism joined in the wrong order."""

    def change(w: Tensor, _original: Original, _name: str) -> Tensor:
        dim_of = min(dim, w.dim() - 1)
        return torch.cat(w.chunk(2, dim_of)[::-1], dim_of) if w.shape[dim_of] % 2 == 0 else w

    return change


def _reinterpreted(stored: torch.dtype, read_as: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda w: w.to(stored).view(read_as).float()


def _heads_as_queries(order: Callable[[Tensor, int], Tensor]) -> Convert:
    def change(w: Tensor, original: Original, _name: str) -> Tensor:
        R = original.config["num_attention_heads"] // original.config["num_key_value_heads"]
        return order(w.unflatten(0, (original.config["num_key_value_heads"], -1)), R).flatten(0, 1)

    return _only("k_proj v_proj", change)


def _scaled(factor: Callable[[Config], float]) -> Callable[[Tensor, Original, str], Tensor]:
    return lambda w, original, _name: w * factor(original.config)


def _rows_moved(by: int) -> Callable[[Tensor, Original, str], Tensor]:
    return lambda w, _original, _name: w.roll(by, 0)


def _without_scaling(config: Config) -> Config:
    rope = config["rope_parameters"]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": rope["rope_theta"]}}


def _with_theta(theta: float) -> Callable[[Config], Config]:
    return lambda config: {"rope_parameters": config["rope_parameters"] | {"rope_theta": theta}}


QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")

CONVERSIONS = (
    # pairs of channels
    Conversion("qk_not_permuted", "rows of q_proj and k_proj are in the layout of the other pairing of channels: they"
               " were not permuted", "llama2.c#286, torchtitan#1441", (_permuted("q_proj k_proj", "undone"),)),
    Conversion("qk_permuted_twice", "rows of q_proj and k_proj are permuted once too often", "nurl#584",
               (_permuted("q_proj k_proj", "again"),)),
    Conversion("k_not_permuted", "rows of q_proj are permuted, those of k_proj are not", "nanotron#214",
               (_permuted("k_proj", "undone"),)),
    Conversion("q_not_permuted", "rows of k_proj are permuted, those of q_proj are not", "transformers#30755",
               (_permuted("q_proj", "undone"),)),
    Conversion("k_permuted_with_query_heads", "rows of k_proj are permuted with the number of query heads",
               "llama.cpp#3018, llama.cpp#2376, TinyLlama#24", (_with_heads_of("q_proj", "k_proj"),)),
    Conversion("q_permuted_with_key_heads", "rows of q_proj are permuted with the number of key heads", "own",
               (_with_heads_of("k_proj", "q_proj"),)),
    Conversion("qk_biases_not_permuted", "weights of q_proj and k_proj are permuted, their biases are not", "own",
               (_only("q_proj k_proj", _weights_only),)),
    # fused tensors
    Conversion("qkv_by_group_cut_in_blocks", "a fused qkv that is ordered by group is cut into three blocks",
               "litgpt", (_fused(QKV, _by_group, _in_blocks),)),
    Conversion("qkv_in_blocks_cut_by_group", "a fused qkv of three blocks is cut group by group", "litgpt",
               (_fused(QKV, _one_after_the_other, _apart_by_group),)),
    Conversion("gate_and_up_exchanged", "gate_proj holds the rows of up_proj, and the reverse", "x-transformers",
               (_read_from({"gate_proj": "up_proj", "up_proj": "gate_proj"}),)),
    Conversion("gate_up_row_by_row_cut_in_blocks", "a fused gate and up whose rows alternate is cut into two blocks",
               "own", (_fused(GATE_UP, _row_by_row, _in_blocks),)),
    Conversion("gate_up_in_blocks_cut_row_by_row", "a fused gate and up of two blocks is cut row by row", "own",
               (_fused(GATE_UP, _one_after_the_other, _every_other),)),
    Conversion("keys_and_values_exchanged", "k_proj and v_proj hold each other's weights", "own",
               (_read_from({"k_proj": "v_proj", "v_proj": "k_proj"}),)),
    Conversion("values_are_keys", "v_proj holds the weights of k_proj", "own", (_read_from({"v_proj": "k_proj"}),)),
    Conversion("keys_are_values", "k_proj holds the weights of v_proj", "own", (_read_from({"k_proj": "v_proj"}),)),
    # shapes that fit by chance
    Conversion("square_transposed", "a square matrix is transposed", "own", (
        *(_only(part, _square_transposed) for part in (*QKV, "o_proj", *GATE_UP, "down_proj")),
        _only("q_proj k_proj v_proj o_proj", _square_transposed),
        _only("gate_proj up_proj down_proj", _square_transposed),
        _only("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", _square_transposed),
    )),
    Conversion("shards_exchanged", "two shards are joined in the wrong order", "own", (
        *(_only(part, _shards_exchanged(0)) for part in (*QKV, *GATE_UP, "lm_head", "embed_tokens")),
        *(_only(part, _shards_exchanged(1)) for part in ("o_proj", "down_proj", "embed_tokens")),
        _only("q_proj k_proj v_proj gate_proj up_proj lm_head embed_tokens", _shards_exchanged(0)),
        _only("o_proj down_proj", _shards_exchanged(1)),
    )),
    Conversion("key_heads_lost", "num_key_value_heads is the number of query heads", "llama2.c",
               fields=lambda config: {"num_key_value_heads": config["num_attention_heads"]}),
    Conversion("key_heads_tiled", "key and value heads are repeated for the query heads in turn, 0 1 0 1, where each"
               " belongs to neighbouring ones, 0 0 1 1", "jax-js#180, keras-hub#1203", (
        _heads_as_queries(lambda heads, R: heads.repeat(R, *[1] * (heads.dim() - 1))),),
        fields=lambda config: {"num_key_value_heads": config["num_attention_heads"]}),
    # layers
    Conversion("layer_before", "a layer holds the tensors of the one before it", "own",
               (_from_layer(lambda i, _n: max(i - 1, 0)),)),
    Conversion("layer_after", "a layer holds the tensors of the one after it", "own",
               (_from_layer(lambda i, n: min(i + 1, n - 1)),)),
    Conversion("first_layer_for_all", "all layers hold the weights of the first", "own",
               (_from_layer(lambda _i, _n: 0),)),
    Conversion("last_layer_for_all", "all layers hold the weights of the last", "own",
               (_from_layer(lambda _i, n: n - 1),)),
    Conversion("layers_in_reverse", "the last layer's weights are loaded into the first, and the reverse", "own",
               (_from_layer(lambda i, n: n - 1 - i),)),
    Conversion("layers_sorted_as_text", "layers are in the order of their names: 0, 1, 10, 11, 2", "own",
               (_from_layer(_sorted_as_text),)),
    # norms and biases
    Conversion("gains_off_by_one", "the gain of a norm is stored as w - 1, or w is read as 1 + w",
               "gemma.cpp, keras-hub", (_everywhere(lambda w: w + 1, "norm.weight"),
                                        _everywhere(lambda w: w - 1, "norm.weight"))),
    Conversion("gains_not_loaded", "norms keep the ones that they are initialised with", "own",
               (_everywhere(torch.ones_like, "norm.weight"),)),
    Conversion("norms_exchanged", "input_layernorm and post_attention_layernorm hold each other's weights", "own",
               (_read_from({"input_layernorm": "post_attention_layernorm",
                            "post_attention_layernorm": "input_layernorm"}),)),
    Conversion("final_norm_from_a_layer", "the final norm holds the weight of the last layer's second norm", "own",
               (_last_norm,)),
    Conversion("biases_dropped", "biases keep the zeros that they are initialised with", "own",
               (_everywhere(torch.zeros_like, ".bias"),)),
    # embedding and head
    Conversion("embedding_as_head", "the head is the embedding though the model is not tied", "tinygrad#13796",
               (lambda original, name: original.read(EMBEDDING if name == HEAD else name),)),
    Conversion("head_as_embedding", "the embedding is the head though the model is not tied", "own",
               (lambda original, name: original.read(HEAD if name == EMBEDDING and HEAD in original.names else name),)),
    Conversion("embedding_scaled", "the embedding is multiplied by √D, which Gemma's model does and Llama's does not",
               "own", (_only("embed_tokens", _scaled(lambda config: config["hidden_size"] ** 0.5)),)),
    Conversion("rows_moved_by_one", "the rows of embedding and head belong to the next or the previous token id", "own",
               (_only("embed_tokens lm_head", _rows_moved(1)), _only("embed_tokens lm_head", _rows_moved(-1)),
                _only("embed_tokens", _rows_moved(1)), _only("embed_tokens", _rows_moved(-1)))),
    Conversion("vocabulary_padded", "rows that pad the vocabulary to a multiple are kept, so that ids which no tokenizer"
               " gives can be sampled", "own"),
    # numbers
    Conversion("left_at_initialisation", "a tensor is what a model is initialised with: it was not loaded",
               "tinygrad#13796"),
    Conversion("scale_folded_into_q", "q_proj is multiplied by H^-1/2, which attention does again", "own",
               (_only("q_proj", _scaled(lambda config: config["head_dim"] ** -0.5)),)),
    Conversion("bfloat16_read_as_float16", "the bits of bfloat16 numbers are read as float16", "own",
               (_everywhere(_reinterpreted(torch.bfloat16, torch.float16)),)),
    Conversion("float16_read_as_bfloat16", "the bits of float16 numbers are read as bfloat16", "own",
               (_everywhere(_reinterpreted(torch.float16, torch.bfloat16)),)),
    Conversion("rounded_to_bfloat16", "weights have passed through bfloat16", "own",
               (_everywhere(lambda w: w.bfloat16().float()),)),
    Conversion("rounded_to_float16", "weights have passed through float16", "own",
               (_everywhere(lambda w: w.half().float()),)),
    # fields
    Conversion("rope_scaling_lost", "the scaling of rotary frequencies is not in the converted configuration",
               "llama.cpp#8650, felafax#59, tiny-vllm#1", fields=_without_scaling),
    Conversion("theta_lost", "rope_theta is the default of 10,000", "gpt-fast#179, airllm#368",
               fields=_with_theta(10000.0)),
    Conversion("eps_lost", "rms_norm_eps is a default, 1e-6 or 1e-5", "candle#271",
               fields=lambda config: {"rms_norm_eps": 1e-6 if config["rms_norm_eps"] != 1e-6 else 1e-5}),
)  # fmt: skip
