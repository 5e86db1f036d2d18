"""The mathematics of one token, in functions that TorchInductor makes one kernel of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scratch.model.llama import Llama
from llama_scratch.model.swiglu import ACTIVATION

Linear = tuple[Tensor, Tensor | None]  # weight and bias


class Weights(NamedTuple):
    """The model's own tensors; nothing is copied."""

    embedding: Tensor
    layers: list[dict[str, Any]]
    gain: Tensor
    head: Tensor


def weights(model: Llama) -> Weights:
    """Of a model, as the step takes them."""
    decoder = model.model
    layers = [_of_layer(layer) for layer in decoder.layers]
    return Weights(decoder.embed_tokens.weight, layers, decoder.norm.weight, model.lm_head.weight)


def _of_layer(layer: Any) -> dict[str, Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    projections |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    found: dict[str, Any] = {name: (linear.weight, linear.bias) for name, linear in projections.items()}
    return found | {"g1": layer.input_layernorm.weight, "g2": layer.post_attention_layernorm.weight}


def signed(rotation: Tensor) -> Tensor:
    """`angles` of one position a row, (2, B, 1, H) -> (B, 2, H), the first half of each sine negated: see `turned`."""
    cos, sin = rotation[:, :, 0]
    first, second = sin.chunk(2, dim=-1)
    return torch.stack((cos, torch.cat((-first, second), dim=-1)), dim=1)


def stored(x: Tensor) -> Tensor:
    """X, written to memory. TorchInductor would compute it again for every row of the product that reads it, the whole
    residual stream included (benchmarks/NOTES.md); it stores what is viewed with strides.
    """
    x = x.contiguous()  # or the strides of a product that was written the other way round would be taken for its own
    return x.as_strided(x.shape, x.stride())


def product(linear: Linear, x: Tensor) -> Tensor:
    """(B, I) -> (B, O): row-wise sums for one text; for several, PyTorch's product, written the way it is faster."""
    weight, bias = linear
    if x.shape[0] == 1:  # and not len(x), a number that torch.export would hold on to
        y = (weight.float() * x).sum(-1)[None]
    elif weight.dtype == torch.float32:
        y = (weight @ x.T).T
    else:
        y = F.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y + bias.float()


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """(B, D) -> (B, D): rms_norm.py."""
    return stored(gain.float() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)))


def turned(x: Tensor, rotation: Tensor) -> Tensor:
    """Heads (B, n, H) turned by (B, 2, H). Halves change places by an index, not by a copy: one loop does it all."""
    halves = x.unflatten(-1, (2, -1))
    cos, sin = rotation.unflatten(-1, (2, -1))[:, :, None].unbind(1)
    return stored((halves * cos + halves.flip(-2) * sin).flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What each query (B, N, H), divided by √H, reads of keys (B, G, S, H) and values (B, G, H, S), where mask (B, S)
    lets it: (B, N·H). Both sums run along memory.
    """
    B, G, _, H = k.shape
    scores = (q.view(B, G, -1, 1, H) * k[:, :, None].float()).sum(-1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], torch.finfo(torch.float32).min)
    weights = stored((scores - scores.amax(-1, keepdim=True)).exp())
    read = (weights[..., None, :] * v[:, :, None].float()).sum(-1) / weights.sum(-1, keepdim=True)
    return stored(read.reshape(B, -1))


def attention(
    w: dict[str, Any], x: Tensor, rotation: Tensor, filled: Tensor, mask: Tensor | None, keys: Tensor, values: Tensor
) -> Tensor:
    """(B, D) -> (B, D); keys (B, G, room, H) and values (B, G, H, room) are one layer's cache, written at the last
    filled position.
    """
    at, S, H = filled[-1:], filled.shape[0], keys.shape[-1]
    q, k, v = (product(w[name], x).unflatten(-1, (-1, H)) for name in "qkv")
    keys.index_copy_(2, at, turned(k, rotation).to(keys.dtype)[:, :, None])
    values.index_copy_(3, at, v.to(values.dtype)[..., None])
    return product(w["o"], attend(turned(q * H**-0.5, rotation), keys[:, :, :S], values[..., :S], mask))


def swiglu(w: dict[str, Any], x: Tensor, act: str) -> Tensor:
    """(B, D) -> (B, D): swiglu.py."""
    return product(w["down"], stored(ACTIVATION[act](product(w["gate"], x)) * product(w["up"], x)))


def block(w: dict[str, Any], x: Tensor, eps: float, act: str, *surroundings: Any) -> Tensor:
    """(B, D) -> (B, D); surroundings as in `attention`, from rotation on."""
    x = stored(x + attention(w, norm(x, w["g1"], eps), *surroundings))
    return stored(x + swiglu(w, norm(x, w["g2"], eps), act))


def logits(w: Weights, eps: float, act: str, tokens: Tensor, rotations: Tensor, rows: Tensor, filled: Tensor,
           mask: Tensor | None, keys: list[Tensor], values: list[Tensor]) -> Tensor:  # fmt: skip
    """(B, 1, V) of the tokens after `tokens` (B, 1), whose keys and values are written into the caches. Each text has
    the one of `rotations` (any, 2, H) that `rows` (B,) says. `filled`: the positions that it sees, its own included; a
    tensor, for its length is what changes.
    """
    x, rotation = stored(F.embedding(tokens[:, 0], w.embedding).float()), stored(rotations[rows])
    for layer, k_cache, v_cache in zip(w.layers, keys, values, strict=True):
        x = block(layer, x, eps, act, rotation, filled, mask, k_cache, v_cache)
    return product((w.head, None), norm(x, w.gain, eps)).to(w.head.dtype)[:, None]
