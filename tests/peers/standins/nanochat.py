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
            k, v = torch.cat((self.keys[layer], k), dim=2), torch.cat((self.values[layer], v), dim=2)
        self.keys[layer], self.values[layer] = k, v
        return k, v


class Attention(nn.Module):
    def __init__(self, dim, heads, groups, head_dim, layer):
        super().__init__()
        self.head_dim, self.layer = head_dim, layer
        self.c_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.c_k, self.c_v = (nn.Linear(dim, groups * head_dim, bias=False) for _ in range(2))
        self.c_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x, cos_sin, hidden, cache=None):
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in (self.c_q(x), self.c_k(x), self.c_v(x)))
        q, k, v = (y.transpose(1, 2) for y in (turn(q, *cos_sin), turn(k, *cos_sin), v))
        if cache is not None:
            k, v = cache.insert(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, enable_gqa=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.c_gate, self.c_fc = (nn.Linear(dim, inner, bias=False) for _ in range(2))
        self.c_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        return self.c_proj(F.silu(self.c_gate(x)) * self.c_fc(x))


class Block(nn.Module):
    def __init__(self, dim, heads, groups, head_dim, inner, layer):
        super().__init__()
        self.norm_1, self.norm_2 = Norm(dim), Norm(dim)
        self.attn, self.mlp = Attention(dim, heads, groups, head_dim, layer), MLP(dim, inner)

    def forward(self, x, cos_sin, hidden, cache=None):
        x = x + self.attn(self.norm_1(x), cos_sin, hidden, cache)
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, groups, head_dim, inner, theta):
        super().__init__()
        self.wte, self.norm = nn.Embedding(vocabulary, dim), Norm(dim)
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
