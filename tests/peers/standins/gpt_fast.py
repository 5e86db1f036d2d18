"""A Llama for fast decoding: q, k and v in one product, neighbours turned by a table in the model's dtype, buffers for
keys and values inside the attention modules, which are read whole under a mask, and one input_pos for all rows.
"""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


def table(theta, head_dim, longest, dtype):
    speeds = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(longest), speeds)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).to(dtype)


def turn(x, turns):
    """x (B, T, heads, H), turns (T, H / 2, 2)."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = turns.float()[None, :, None].unbind(-1)
    first, second = pairs.unbind(-1)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(3).type_as(x)


class KVCache(nn.Module):
    def __init__(self, batch, longest, heads, head_dim, dtype):
        super().__init__()
        for name in ("k_cache", "v_cache"):
            self.register_buffer(name, torch.zeros(batch, heads, longest, head_dim, dtype=dtype))

    def update(self, places, k, v):
        self.k_cache[:, :, places] = k
        self.v_cache[:, :, places] = v
        return self.k_cache, self.v_cache


class Attention(nn.Module):
    def __init__(self, dim, heads, groups, head_dim):
        super().__init__()
        self.heads = heads
        self.groups = groups
        self.head_dim = head_dim
        self.wqkv = nn.Linear(dim, (heads + 2 * groups) * head_dim, bias=False)
        self.wo = nn.Linear(heads * head_dim, dim, bias=False)
        self.kv_cache = None

    def forward(self, x, turns, mask, places=None):
        B, T, _ = x.shape
        sizes = [n * self.head_dim for n in (self.heads, self.groups, self.groups)]
        q, k, v = (y.view(B, T, -1, self.head_dim) for y in self.wqkv(x).split(sizes, dim=-1))
        q = turn(q, turns).transpose(1, 2)
        k = turn(k, turns).transpose(1, 2)
        v = v.transpose(1, 2)
        if self.kv_cache is not None:
            k, v = self.kv_cache.update(places, k, v)
        k = k.repeat_interleave(self.heads // self.groups, dim=1)
        v = v.repeat_interleave(self.heads // self.groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.wo(y.transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.w1 = nn.Linear(dim, inner, bias=False)
        self.w3 = nn.Linear(dim, inner, bias=False)
        self.w2 = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, dim, heads, groups, head_dim, inner, eps):
        super().__init__()
        self.attention = Attention(dim, heads, groups, head_dim)
        self.feed_forward = FeedForward(dim, inner)
        self.attention_norm = RMSNorm(dim, eps)
        self.ffn_norm = RMSNorm(dim, eps)

    def forward(self, x, turns, mask, places=None):
        h = x + self.attention(self.attention_norm(x), turns, mask, places)
        return h + self.feed_forward(self.ffn_norm(h))


class Transformer(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, groups, head_dim, inner, eps, theta, longest, dtype):
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(Block(dim, heads, groups, head_dim, inner, eps) for _ in range(layers))
        self.norm = RMSNorm(dim, eps)
        self.output = nn.Linear(dim, vocabulary, bias=False)
        self.turns = table(theta, head_dim, longest, dtype)

    def setup_caches(self, batch, longest):
        for layer in self.layers:
            a = layer.attention
            a.kv_cache = KVCache(batch, longest, a.groups, a.head_dim, self.turns.dtype)

    def forward(self, ids, input_pos):
        kept = self.layers[0].attention.kv_cache
        S = kept.k_cache.shape[2] if kept is not None else ids.shape[1]
        mask = (torch.arange(S) <= input_pos[:, None])[None, None]
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x, self.turns[input_pos], mask, input_pos)
        return self.output(self.norm(x))
