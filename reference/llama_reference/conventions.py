"""What an adapter needs where a Llama keeps to other conventions than transformers: other names and layouts of its
weights, a cache inside its modules, one position for all rows, another kind of mask, or no parts that can be asked.

    weights     name, rename, fuse_qkv, fuse_gate_up, interleaved and half_split; load puts them into a model
    support     only: what the model has of a configuration
    positions   input_pos, offset, from_zero
    masks       may_look, additive
    caches      HeldCache: of a model that keeps its cache inside; row_by_row, RowCache: of one without padding
    programs    token_by_token: logits of a program that takes a token and its place

All of them move or copy numbers, and compute none: what is judged stays the model's own arithmetic.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llama_reference.implementation import Config, State

Names = Mapping[str, str]

_LAYER = "model.layers.{}."
META: Names = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    _LAYER + "input_layernorm": "layers.{}.attention_norm",
    _LAYER + "post_attention_layernorm": "layers.{}.ffn_norm",
    _LAYER + "self_attn.q_proj": "layers.{}.attention.wq",
    _LAYER + "self_attn.k_proj": "layers.{}.attention.wk",
    _LAYER + "self_attn.v_proj": "layers.{}.attention.wv",
    _LAYER + "self_attn.qkv_proj": "layers.{}.attention.wqkv",
    _LAYER + "self_attn.o_proj": "layers.{}.attention.wo",
    _LAYER + "mlp.gate_proj": "layers.{}.feed_forward.w1",
    _LAYER + "mlp.up_proj": "layers.{}.feed_forward.w3",
    _LAYER + "mlp.down_proj": "layers.{}.feed_forward.w2",
}
"""Meta's own names, and gpt-fast's where q, k and v are fused."""
TORCHTUNE: Names = {
    **META,
    "model.norm.weight": "norm.scale",
    _LAYER + "input_layernorm.weight": "layers.{}.sa_norm.scale",
    _LAYER + "post_attention_layernorm.weight": "layers.{}.mlp_norm.scale",
    _LAYER + "self_attn.o_proj": "layers.{}.attn.output_proj",
    **{_LAYER + f"self_attn.{name}_proj": f"layers.{{}}.attn.{name}_proj" for name in "qkv"},
    **{_LAYER + f"mlp.{name}_proj": f"layers.{{}}.mlp.w{i}" for i, name in enumerate(("gate", "down", "up"), 1)},
}
LITGPT: Names = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "lm_head": "lm_head",
    _LAYER + "input_layernorm": "transformer.h.{}.norm_1",
    _LAYER + "post_attention_layernorm": "transformer.h.{}.norm_2",
    _LAYER + "self_attn.qkv_proj": "transformer.h.{}.attn.qkv",
    _LAYER + "self_attn.o_proj": "transformer.h.{}.attn.proj",
    **{_LAYER + f"mlp.{name}_proj": f"transformer.h.{{}}.mlp.{theirs}"
       for name, theirs in (("gate", "fc_1"), ("up", "fc_2"), ("down", "proj"))},
}  # fmt: skip
GPT_NEOX: Names = {
    "model.embed_tokens": "gpt_neox.embed_in",
    "model.norm": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    _LAYER + "input_layernorm": "gpt_neox.layers.{}.input_layernorm",
    _LAYER + "post_attention_layernorm": "gpt_neox.layers.{}.post_attention_layernorm",
    _LAYER + "self_attn.qkv_proj": "gpt_neox.layers.{}.attention.query_key_value",
    _LAYER + "self_attn.o_proj": "gpt_neox.layers.{}.attention.dense",
    **{_LAYER + f"mlp.{name}_proj": f"gpt_neox.layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
}
CS336: Names = {
    "model.embed_tokens": "token_embeddings",
    "model.norm": "ln_final",
    "lm_head": "lm_head",
    _LAYER + "input_layernorm": "layers.{}.ln1",
    _LAYER + "post_attention_layernorm": "layers.{}.ln2",
    **{_LAYER + f"self_attn.{name}_proj": f"layers.{{}}.attn.{name}_proj" for name in "qkv"},
    _LAYER + "self_attn.o_proj": "layers.{}.attn.output_proj",
    **{_LAYER + f"mlp.{name}_proj": f"layers.{{}}.ffn.w{i}" for i, name in enumerate(("gate", "down", "up"), 1)},
}
"""Those of Stanford's CS336, assignment 1."""


def only(config: Config, **supported: Any) -> None:
    """Refuse a configuration unless each of these fields has this value, or one of these where it is a tuple."""
    for field, value in supported.items():
        found = config[field] if field in config else config["rope_parameters"].get(field)
        if found not in (value if isinstance(value, tuple) else (value,)):
            raise NotImplementedError(f"{field} is {value!r} only")


def name(key: str, names: Names) -> str:
    """The other name of a module or tensor; `names` maps modules, {} being the layer's number, or whole tensors.

    Raises ValueError where the map does not name it.
    """
    number = re.search(r"\d+", key)
    pattern = re.sub(r"\d+", "{}", key, count=1)
    module, _, kind = pattern.rpartition(".")
    if pattern not in names and module not in names:
        raise ValueError(f"the map of names has neither {pattern!r} nor {module!r}")
    theirs = names[pattern] if pattern in names else f"{names[module]}.{kind}"
    return theirs.format(number[0] if number else "")


def rename(state: State, names: Names) -> State:
    """The tensors under other names. Raises ValueError for a tensor that the map does not name."""
    return {name(key, names): tensor for key, tensor in state.items()}


def fuse_qkv(state: State, config: Config, by_group: bool = False) -> State:
    """Rows of q, k and v as those of one self_attn.qkv_proj: one after the other, or group by group (R heads of q, one
    of k, one of v), as GPT-NeoX and older litgpt have them.
    """
    G, H = config["num_key_value_heads"], config["head_dim"]

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not by_group:
            return torch.cat((q, k, v))
        return torch.cat([x.unflatten(0, (G, -1, H)) for x in (q, k, v)], dim=1).flatten(0, 2)

    return _fused(state, ("q_proj", "k_proj", "v_proj"), "qkv_proj", fused)


def fuse_gate_up(state: State) -> State:
    """Rows of gate and up as those of one mlp.gate_up_proj, gate first."""
    return _fused(state, ("gate_proj", "up_proj"), "gate_up_proj", lambda *parts: torch.cat(parts))


def _fused(state: State, parts: Sequence[str], whole: str, join: Callable[..., Tensor]) -> State:
    first, *others = parts
    rest = {key: w for key, w in state.items() if not any(f".{part}." in key for part in parts)}
    return rest | {
        key.replace(first, whole): join(w, *(state[key.replace(first, other)] for other in others))
        for key, w in state.items()
        if f".{first}." in key
    }


def interleaved(x: Tensor, heads: int = 1, dim: int = -1) -> Tensor:
    """Channels i and i + H/2 of each head side by side, as Meta pairs them; half_split undoes it.

    Of activations (..., H), or with dim=0 of the rows of q_proj and k_proj, weights and biases.
    """
    dim %= x.dim()
    return x.unflatten(dim, (heads, 2, -1)).transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


def half_split(x: Tensor, heads: int = 1, dim: int = -1) -> Tensor:
    """The inverse of interleaved: channels 2i and 2i + 1 of each head become i and i + H/2, as in transformers."""
    dim %= x.dim()
    return x.unflatten(dim, (heads, -1, 2)).transpose(dim + 1, dim + 2).flatten(dim, dim + 2)


def interleave_qk(state: State, config: Config) -> State:
    """The rows of q_proj and k_proj as a model needs them that pairs neighbouring channels."""
    heads: dict[str, int] = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return {
        key: interleaved(w, heads[part], dim=0) if (part := key.split(".")[-2]) in heads else w
        for key, w in state.items()
    }


def load(model: nn.Module, state: State, convert: Callable[[State], State], dtype: torch.dtype) -> State:
    """Give the model its weights: `convert` turns tensors under Hugging Face's names into the model's own.

    Returns what `parameters` has to return. The model's weights are computed from these, so that autograd brings their
    gradients whatever convert does. Raises ValueError where names or shapes are not the model's.
    """
    leaves = {key: w.detach().to(dtype, copy=True).requires_grad_() for key, w in state.items()}
    theirs, own = convert(leaves), dict(model.named_parameters(remove_duplicate=False))
    if different := sorted(theirs.keys() ^ own.keys()):
        key = different[0]
        where = "the model lacks it" if key in theirs else "convert does not give it"
        raise ValueError(f"{len(different)} names of weights differ, the first is {key!r}: {where}")
    for key, w in theirs.items():
        if w.shape != own[key].shape:
            raise ValueError(f"{key} is {tuple(w.shape)}, the model expects {tuple(own[key].shape)}")
        where, _, kind = key.rpartition(".")
        module = model.get_submodule(where)
        del module._parameters[kind]
        setattr(module, kind, w)
    return leaves


def input_pos(positions: Tensor) -> Tensor:
    """The positions (T,) of every row of (B, T). Refuses rows that differ."""
    if not (positions == positions[:1]).all():
        raise NotImplementedError("one row of positions for all")
    return positions[0]


def offset(positions: Tensor) -> int:
    """The position at which every row of (B, T) begins. Refuses rows that differ, and positions with gaps."""
    row = input_pos(positions)
    if not (row == row[0] + torch.arange(len(row))).all():
        raise NotImplementedError("consecutive positions only")
    return int(row[0])


def from_zero(positions: Tensor) -> None:
    """Refuse positions (B, T) other than 0, 1, 2 and so on: of a model that counts them itself."""
    if offset(positions):
        raise NotImplementedError("positions from 0 on only")


def may_look(T: int, S: int, mask: Tensor | None = None) -> Tensor:
    """(B or 1, 1, T, S): True where a query, one of the last T of S positions, may look. (Masked where True: ~.)"""
    causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None]
    return causal if mask is None else causal & mask[:, None, None].bool()


def additive(look: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to scores: 0 where a query may look, the dtype's lowest number elsewhere."""
    return torch.zeros(look.shape, dtype=dtype).masked_fill(~look, torch.finfo(dtype).min)


class HeldCache:
    """The cache of a model that keeps it in modules of its own: those whose name ends in `name`.

    Each HeldCache has copies of these, which are in the model's place while it is used:

        with cache.inside(model): ...
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.parts = {where: copy.deepcopy(m) for where, m in model.named_modules() if where.split(".")[-1] == name}
        self.length = 0

    @contextmanager
    def inside(self, model: nn.Module, T: int) -> Iterator[Tensor]:
        """The next T places of the cache, which hold what the model is asked within; afterwards they are filled."""
        theirs = {where: getattr(*_owner(model, where)) for where in self.parts}
        try:
            _put(model, self.parts)
            yield torch.arange(self.length, self.length + T)
            self.length += T
        finally:
            _put(model, theirs)

    def crop(self, length: int) -> HeldCache:
        """The same cache, which goes on after `length` places; the model writes over the others."""
        self.length = length
        return self

    def reorder(self, rows: Tensor) -> HeldCache:
        """The same cache, whose row i is what row rows[i] was."""
        for part in self.parts.values():
            for name, buffer in part.named_buffers():
                if buffer.dim() == 4:
                    part.register_buffer(name, buffer[rows])
        return self


def _put(model: nn.Module, parts: Mapping[str, nn.Module | None]) -> None:
    for where, part in parts.items():
        setattr(*_owner(model, where), part)


def _owner(model: nn.Module, where: str) -> tuple[nn.Module, str]:
    """The module that holds the one of this name, and the attribute that it is held in."""
    parent, _, attribute = where.rpartition(".")
    return model.get_submodule(parent), attribute


class RowCache:
    """A cache for each row, of a model that takes rows of one length only; and which columns are real tokens."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = list(rows)
        self.real = torch.ones(len(self.rows), 0, dtype=torch.bool)

    def crop(self, length: int, crop: Callable[[Any, int], Any]) -> RowCache:
        """Every row without the columns from `length` on; crop(row's cache, length) does it for one."""
        self.real = self.real[:, :length]
        counts = self.real.sum(1).tolist()
        self.rows = [crop(row, count) for row, count in zip(self.rows, counts, strict=True)]
        return self

    def reorder(self, rows: Tensor) -> RowCache:
        """Row i is what row rows[i] was."""
        self.rows = [copy.deepcopy(self.rows[row]) for row in rows.tolist()]
        self.real = self.real[rows]
        return self


def row_by_row(
    call: Callable[[Tensor, Tensor, Any], Tensor], x: Tensor, positions: Tensor, mask: Tensor | None,
    cache: RowCache | None = None,
) -> Tensor:  # fmt: skip
    """call(x, positions, cache) of one row after another, of its real tokens alone; padding gets zeros.

    For a model that takes neither padding nor rows at different positions: these are not asked of it then.
    """
    real = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask[:, -x.shape[1] :].bool()
    answers: list[Tensor | None] = []
    for i, columns in enumerate(real):
        row = cache.rows[i] if cache is not None else None
        answers.append(call(x[i : i + 1, columns], positions[i : i + 1, columns], row) if columns.any() else None)
    if cache is not None:
        cache.real = torch.cat((cache.real, real), dim=1)
    return _laid_out(answers, real)


def _laid_out(answers: Sequence[Tensor | None], real: Tensor) -> Tensor:
    """Each row's answers (1, real tokens, ...) in its real columns."""
    like = next(answer for answer in answers if answer is not None)
    rows = []
    for answer, columns in zip(answers, real, strict=True):
        row = like.new_zeros(len(columns), *like.shape[2:])
        rows.append(row if answer is None else row.index_put((columns,), answer[0]))
    return torch.stack(rows)


def token_by_token(step: Callable[[int, int], Sequence[float]], tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Logits (B, T, V) of a program that has no parts to ask: step(token, place) gives V numbers, and place 0 begins a
    new text. For ctypes: `lambda token, place: forward(token, place)[:V]`.
    """

    def row(x: Tensor, _positions: Tensor, _cache: Any) -> Tensor:
        return torch.tensor([[list(step(int(token), place)) for place, token in enumerate(x[0])]])

    return row_by_row(row, tokens, tokens, mask)
