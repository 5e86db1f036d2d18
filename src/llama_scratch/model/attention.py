r"""Causal self-attention with grouped queries.

    Attention(Q, K, V) = softmax( Q Kᵀ / √H + M ) V,    M = 0 where a query may look, −∞ elsewhere

N query heads share G key/value heads: heads gR … gR + R − 1 read group g. The dtype's lowest number
replaces −∞, so that a fully masked row stays finite. The softmax runs in float32 and is rounded
before it weighs the values.

Vaswani et al. 2017, "Attention Is All You Need", eq. 1; Ainslie et al. 2023, "GQA", section 2.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_scratch.model.config import Hidden, Keys, LlamaConfig, Mask, Padding, Queries, Rotation
from llama_scratch.model.kv_cache import LayerCache
from llama_scratch.model.rotary import rotate


def causal_mask(T: int, S: int, attention_mask: Padding | None, device: torch.device) -> Mask:
    """Let query t, which is column S − T + t, see itself and all real tokens before it."""
    columns = torch.arange(S, device=device)
    allowed = (columns <= columns[S - T :, None])[None, None]
    return allowed if attention_mask is None else allowed & attention_mask[:, None, None, :].bool()


def split_heads(x: Hidden, H: int) -> Tensor:
    """Reshape (B, T, heads · H) to (B, heads, T, H)."""
    return x.unflatten(-1, (-1, H)).transpose(1, 2)


def share_heads(x: Keys, R: int) -> Tensor:
    """Repeat each of G heads R times: (B, N, S, H). R = 1 must not copy: that changes bits."""
    return x if R == 1 else x[:, :, None].expand(-1, -1, R, -1, -1).flatten(1, 2)


def attend(
    q: Queries, k: Keys, v: Keys, mask: Mask, dropout: float = 0.0, sdpa: bool = False
) -> Queries:
    """Compute scaled dot-product attention. With `sdpa` PyTorch's fused kernel computes it: the
    same formula, different rounding, different output for fully masked rows."""
    R = q.shape[1] // k.shape[1]
    k = share_heads(k, R)
    v = share_heads(v, R)
    if sdpa:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    lowest = torch.finfo(q.dtype).min
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + (~mask).to(q.dtype) * lowest
    if q.dtype == torch.float16:  # the sum may overflow to −∞; a whole row of −∞ would give NaN
        scores = scores.masked_fill(scores.amax(dim=-1, keepdim=True) == -torch.inf, lowest)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


class Attention(nn.Module):
    """Multi-head attention with rotary positions. Raises ValueError if the cache has no room."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        D = config.hidden_size
        H = config.head_dim
        q_size = config.num_attention_heads * H
        kv_size = config.num_key_value_heads * H
        self.q_proj = nn.Linear(D, q_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(D, kv_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(D, kv_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(q_size, D, bias=config.attention_bias)
        self.head_dim = H
        self.dropout = config.attention_dropout
        self.sdpa = sdpa

    def forward(
        self, x: Hidden, rotation: Rotation, mask: Mask, cache: LayerCache | None = None
    ) -> Hidden:
        q = split_heads(self.q_proj(x), self.head_dim)
        k = split_heads(self.k_proj(x), self.head_dim)
        v = split_heads(self.v_proj(x), self.head_dim)
        q = rotate(q, rotation)
        k = rotate(k, rotation)
        if cache is not None:
            k, v = cache.append(k, v)
        y = attend(q, k, v, mask, self.dropout if self.training else 0.0, self.sdpa)
        return self.o_proj(y.transpose(1, 2).flatten(2))
