r"""Causal self-attention with grouped queries.

    Attention(Q, K, V) = softmax( Q Kᵀ / √H + M ) V,    M = 0 where a query may look, −∞ elsewhere

N query heads share G key/value heads: heads gR … gR + R − 1 read group g. For −∞ stands the dtype's lowest number, so
that a row with nothing to see stays finite. The softmax runs in float32 and is rounded before it weighs the values.

Vaswani et al. 2017, "Attention Is All You Need", eq. 1; Ainslie et al. 2023, "GQA", section 2.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_scratch.model.config import Hidden, Keys, LlamaConfig, Mask, Padding, Queries, Rotation
from llama_scratch.model.kv_cache import LayerCache
from llama_scratch.model.rotary import rotate


def causal_mask(T: int, S: int, attention_mask: Padding | None, device: torch.device) -> Mask:
    """Query t is column S − T + t: it sees itself and the real tokens before it, cached ones included."""
    columns = torch.arange(S, device=device)
    allowed = (columns <= columns[S - T :, None])[None, None]
    return allowed if attention_mask is None else allowed & attention_mask[:, None, None, :].bool()


def share_heads(x: Keys, R: int) -> Tensor:
    """(B, N, S, H): each of the G heads R times in a row. R = 1 copies nothing: a copy changes bits in float16."""
    return x if R == 1 else x[:, :, None].expand(-1, -1, R, -1, -1).flatten(1, 2)


def attend(q: Queries, k: Keys, v: Keys, mask: Mask, dropout: float = 0.0, sdpa: bool = False) -> Queries:
    """What every query reads: the values, weighed by how well their keys match it. With `sdpa` PyTorch's fused kernel
    computes it: the same mathematics, rounded in another order, and other numbers in rows with nothing to see."""
    k, v = (share_heads(heads, q.shape[1] // k.shape[1]) for heads in (k, v))
    if sdpa:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    lowest = torch.finfo(q.dtype).min
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + (~mask).to(q.dtype) * lowest
    if q.dtype == torch.float16:  # there the sum may overflow to −∞, and a whole row of it would be NaN
        scores = scores.masked_fill(scores.amax(dim=-1, keepdim=True) == -torch.inf, lowest)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


class Attention(nn.Module):
    """Projects to queries, keys and values, turns queries and keys by position, attends, projects back. Raises
    ValueError where the cache has no room."""

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        D, N, G, H = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(D, N * H, bias=config.attention_bias)
        self.k_proj = nn.Linear(D, G * H, bias=config.attention_bias)
        self.v_proj = nn.Linear(D, G * H, bias=config.attention_bias)
        self.o_proj = nn.Linear(N * H, D, bias=config.attention_bias)
        self.head_dim, self.dropout, self.sdpa = H, config.attention_dropout, sdpa

    def forward(self, x: Hidden, rotation: Rotation, mask: Mask, cache: LayerCache | None = None) -> Hidden:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for project in projections)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.append(k, v)
        read = attend(q, k, v, mask, self.dropout if self.training else 0.0, self.sdpa)
        return self.o_proj(read.transpose(1, 2).flatten(2))
