"""Other layouts of weights than transformers', and how a model gets its weights in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from llama_reference.conventions.names import Names, name, rename
from llama_reference.implementation import Config, State


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


def exchanged(x: Tensor, heads: int = 1, dim: int = -1) -> Tensor:
    """The halves of each head exchanged, for a model that turns pairs the other way round; its own inverse."""
    dim %= x.dim()
    return x.unflatten(dim, (heads, 2, -1)).flip(dim + 1).flatten(dim, dim + 2)


def permute_qk(state: State, config: Config, layout: Callable[[Tensor, int, int], Tensor]) -> State:
    """The rows of q_proj and k_proj in another layout: interleaved or exchanged."""
    heads: dict[str, int] = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return {key: layout(w, heads[part], 0) if (part := key.split(".")[-2]) in heads else w for key, w in state.items()}


def load(model: nn.Module, state: State, convert: Callable[[State], State], dtype: torch.dtype) -> State:
    """Give the model its weights: `convert` turns tensors under Hugging Face's names into the model's own.

    Returns what `parameters` has to return. The model's weights are computed from these, so that autograd brings their
    gradients whatever convert does. Raises ValueError where names or shapes are not the model's.
    """
    leaves = {key: w.detach().to(dtype, copy=True).requires_grad_() for key, w in state.items()}
    theirs = convert(leaves)
    own = dict(model.named_parameters(remove_duplicate=False))
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


class Built:
    """A model that has its weights, and its modules by Hugging Face's names. `names` and `convert` make its own names
    and layouts of these (`load` says how).
    """

    def __init__(
        self, model: nn.Module, names: Names, state: State, dtype: torch.dtype,
        convert: Callable[[State], State] = lambda state: state,
    ) -> None:  # fmt: skip
        self.model, self.names = model.to(dtype).eval(), names
        self.leaves = load(model, state, lambda own: rename(convert(own), names), dtype)

    def part(self, where: str) -> nn.Module:
        """The module of this name: a norm, a projection, or what holds them: a layer, its mlp or its self_attn."""
        last = where.rpartition(".")[2]
        child = {"mlp": ".down_proj", "self_attn": ".o_proj"}.get(last, ".input_layernorm" if last.isdigit() else "")
        child = "" if where in self.names else child
        theirs = name(where + child, self.names)
        return self.model.get_submodule(theirs.rpartition(".")[0] if child else theirs)


def parameters(handle: Built) -> State:
    """An adapter's function of this name."""
    return handle.leaves


def rms_norm(handle: Built, where: str, x: Tensor) -> Tensor:
    """An adapter's function of this name."""
    return handle.part(where)(x)


def swiglu(handle: Built, layer: int, x: Tensor) -> Tensor:
    """An adapter's function of this name."""
    return handle.part(f"model.layers.{layer}.mlp")(x)
