"""The mathematics of one token, in functions that TorchInductor fuses into one kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_scratch.model.llama import Llama
from llama_scratch.model.swiglu import ACTIVATION

Projection = tuple[Tensor, Tensor | None]  # weight and bias


class LayerWeights(NamedTuple):
    """The weights of one layer."""

    q: Projection
    k: Projection
    v: Projection
    o: Projection
    gate: Projection
    up: Projection
    down: Projection
    input_norm: Tensor
    post_norm: Tensor


class Weights(NamedTuple):
    """The weights of a model, which are its own tensors: nothing is copied."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor

    def tensors(self) -> list[Tensor]:
        """List every tensor in the order in which the compiled step takes them."""
        listed = [self.embedding]
        for layer in self.layers:
            for part in layer:
                parts = (part,) if isinstance(part, Tensor) else part
                listed += [tensor for tensor in parts if tensor is not None]
        return [*listed, self.norm, self.head]


def weights(model: Llama) -> Weights:
    """Collect the weights of a model."""
    decoder = model.model
    layers = [_layer_weights(layer) for layer in decoder.layers]
    return Weights(decoder.embed_tokens.weight, layers, decoder.norm.weight, model.lm_head.weight)


def _layer_weights(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        q=_projection(attention.q_proj),
        k=_projection(attention.k_proj),
        v=_projection(attention.v_proj),
        o=_projection(attention.o_proj),
        gate=_projection(mlp.gate_proj),
        up=_projection(mlp.up_proj),
        down=_projection(mlp.down_proj),
        input_norm=layer.input_layernorm.weight,
        post_norm=layer.post_attention_layernorm.weight,
    )


def _projection(module: nn.Linear) -> Projection:
    return module.weight, module.bias


def sign_folded(rotation: Tensor) -> Tensor:
    """Fold the sign of `rotate` into the sines: (2, B, 1, H), one position per row, -> (B, 2, H)."""
    cos, sin = rotation[:, :, 0]
    first, second = sin.chunk(2, dim=-1)
    return torch.stack((cos, torch.cat((-first, second), dim=-1)), dim=1)


def materialize(x: Tensor) -> Tensor:
    """Force `x` to be written to memory; TorchInductor stores what is viewed with strides.

    Otherwise it recomputes `x`, and the residual stream before it, for every output row (benchmarks/NOTES.md).
    """
    x = x.contiguous()  # or the strides of a transposed product would be taken for its own
    return x.as_strided(x.shape, x.stride())


def linear(projection: Projection, x: Tensor) -> Tensor:
    """(B, I) -> (B, O): row-wise sums for one text; for several, PyTorch's product in its faster orientation."""
    weight, bias = projection
    if x.shape[0] == 1:  # and not len(x), an int that torch.export would specialise on
        y = (weight.float() * x).sum(-1)[None]
    elif weight.dtype == torch.float32:
        y = (weight @ x.T).T
    else:
        y = F.linear(x.to(weight.dtype), weight).float()
    return y if bias is None else y + bias.float()


def norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """(B, D) -> (B, D), as in rms_norm.py."""
    return materialize(gain.float() * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate heads (B, n, H) by (B, 2, H). The halves are swapped by index, not by a copy, so one loop suffices."""
    halves = x.unflatten(-1, (2, -1))
    cos, sin = rotation.unflatten(-1, (2, -1))[:, :, None].unbind(1)
    return materialize((halves * cos + halves.flip(-2) * sin).flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries (B, N, H), already divided by √H, over keys (B, G, S, H) and values (B, G, H, S).

    Returns (B, N·H). `mask` (B, S) is True where a key is visible. Both sums run along memory.
    """
    B, G, _, H = k.shape
    scores = (q.view(B, G, -1, 1, H) * k[:, :, None].float()).sum(-1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], torch.finfo(torch.float32).min)
    weights = materialize((scores - scores.amax(-1, keepdim=True)).exp())
    mean = (weights[..., None, :] * v[:, :, None].float()).sum(-1) / weights.sum(-1, keepdim=True)
    return materialize(mean.reshape(B, -1))


def attention(
    w: LayerWeights,
    x: Tensor,
    rotation: Tensor,
    filled: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """(B, D) -> (B, D). The cache of the layer, keys (B, G, room, H) and values (B, G, H, room), is written at the last
    filled position.
    """
    last, S, H = filled[-1:], filled.shape[0], keys.shape[-1]
    q = linear(w.q, x).unflatten(-1, (-1, H))
    k = linear(w.k, x).unflatten(-1, (-1, H))
    v = linear(w.v, x).unflatten(-1, (-1, H))
    keys.index_copy_(2, last, rotate(k, rotation).to(keys.dtype)[:, :, None])
    values.index_copy_(3, last, v.to(values.dtype)[..., None])
    return linear(w.o, attend(rotate(q * H**-0.5, rotation), keys[:, :, :S], values[..., :S], mask))


def swiglu(w: LayerWeights, x: Tensor, act: str) -> Tensor:
    """(B, D) -> (B, D), as in swiglu.py."""
    return linear(w.down, materialize(ACTIVATION[act](linear(w.gate, x)) * linear(w.up, x)))


def block(
    w: LayerWeights,
    x: Tensor,
    eps: float,
    act: str,
    rotation: Tensor,
    filled: Tensor,
    mask: Tensor | None,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """(B, D) -> (B, D); the other arguments are those of `attention`."""
    x = materialize(x + attention(w, norm(x, w.input_norm, eps), rotation, filled, mask, keys, values))
    return materialize(x + swiglu(w, norm(x, w.post_norm, eps), act))


def logits(
    w: Weights,
    eps: float,
    act: str,
    tokens: Tensor,
    rotations: Tensor,
    rows: Tensor,
    filled: Tensor,
    mask: Tensor | None,
    keys: list[Tensor],
    values: list[Tensor],
) -> Tensor:
    """(B, 1, V) of the tokens after `tokens` (B, 1), whose keys and values are written into the caches.

    rows (B,): the row of `rotations` (any, 2, H) that each text takes. filled: the positions that each text sees, its
    own included, as a tensor, since its length changes from call to call.
    """
    x = materialize(F.embedding(tokens[:, 0], w.embedding).float())
    rotation = materialize(rotations[rows])
    for layer, k_cache, v_cache in zip(w.layers, keys, values, strict=True):
        x = block(layer, x, eps, act, rotation, filled, mask, k_cache, v_cache)
    return linear((w.head, None), norm(x, w.norm, eps)).to(w.head.dtype)[:, None]
