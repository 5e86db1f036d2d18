"""A Llama that turns queries and keys the other way round, by −θ (the same scores, once the halves of each head are
exchanged), norms by torch's own function without an ε, and has one cache object for all layers.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * F.rms_norm(x, x.shape[-1:])


def turn(x, cos, sin):
    """x (B, T, heads, H), cosine and sine (B, T, H / 2)."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Cache:
    def __init__(self, layers):
        self.keys, self.values = [None] * layers, [None] * layers

    def insert(self, layer, k, v):
        if self.keys[layer] is not None:
            k = torch.cat((self.keys[layer], k), dim=2)
            v = torch.cat((self.values[layer], v), dim=2)
        self.keys[layer], self.values[layer] = k, v
        return k, v


class Attention(nn.Module):
    def __init__(self, dim, heads, groups, head_dim, layer):
        super().__init__()
        self.head_dim, self.layer = head_dim, layer
        self.c_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.c_k = nn.Linear(dim, groups * head_dim, bias=False)
        self.c_v = nn.Linear(dim, groups * head_dim, bias=False)
        self.c_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x, cos_sin, hidden, cache=None):
        q = self.c_q(x).unflatten(-1, (-1, self.head_dim))
        k = self.c_k(x).unflatten(-1, (-1, self.head_dim))
        v = self.c_v(x).unflatten(-1, (-1, self.head_dim))
        q = turn(q, *cos_sin).transpose(1, 2)
        k = turn(k, *cos_sin).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.insert(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, enable_gqa=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.c_gate = nn.Linear(dim, inner, bias=False)
        self.c_fc = nn.Linear(dim, inner, bias=False)
        self.c_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        return self.c_proj(F.silu(self.c_gate(x)) * self.c_fc(x))


class Block(nn.Module):
    def __init__(self, dim, heads, groups, head_dim, inner, layer):
        super().__init__()
        self.norm_1, self.norm_2 = Norm(dim), Norm(dim)
        self.attn = Attention(dim, heads, groups, head_dim, layer)
        self.mlp = MLP(dim, inner)

    def forward(self, x, cos_sin, hidden, cache=None):
        x = x + self.attn(self.norm_1(x), cos_sin, hidden, cache)
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, groups, head_dim, inner, theta):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, dim)
        self.norm = Norm(dim)
        self.h = nn.ModuleList(Block(dim, heads, groups, head_dim, inner, i) for i in range(layers))
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.speeds = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)

    def angles(self, positions, dtype):
        angles = positions[..., None].float() * self.speeds
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, ids, positions, hidden, cache=None):
        """hidden (B, 1, T, S) is True where a query may not look."""
        x = self.wte(ids)
        cos_sin = self.angles(positions, x.dtype)
        for block in self.h:
            x = block(x, cos_sin, hidden, cache)
        return self.lm_head(self.norm(x))
