"""A Llama from scratch that writes its norm as √D · g · x / (‖x‖ + ε), with an ε of its own, turns pairs of neighbours
as complex numbers, and lets its attention modules remember the keys and values of the calls before.
"""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x / (x.norm(2, dim=-1, keepdim=True) + 1e-8) * x.shape[-1] ** 0.5 * self.gain


def turn(x, first, theta):
    """x (B, heads, T, H), which begins at position `first`."""
    T, H = x.shape[-2:]
    speeds = theta ** (-torch.arange(0, H, 2) / H)
    turns = torch.polar(torch.ones(()), torch.outer(torch.arange(first, first + T), speeds))
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, theta):
        super().__init__()
        self.heads, self.theta, self.cache = heads, theta, {}
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x, remember=False):
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        first = self.cache["k"].shape[2] if self.cache else 0
        q = turn(q, first, self.theta)
        k = turn(k, first, self.theta)
        if self.cache:
            k = torch.cat((self.cache["k"], k), dim=2)
            v = torch.cat((self.cache["v"], v), dim=2)
        if remember:
            self.cache = {"k": k, "v": v}
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + first)
        y = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.both = nn.Linear(dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, dim, bias=False)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, dim, heads, inner, theta):
        super().__init__()
        self.norm_1, self.norm_2 = RMSNorm(dim), RMSNorm(dim)
        self.attention = Attention(dim, heads, theta)
        self.feed_forward = FeedForward(dim, inner)

    def forward(self, x, remember=False):
        x = x + self.attention(self.norm_1(x), remember)
        return x + self.feed_forward(self.norm_2(x))


class LLM(nn.Module):
    def __init__(self, vocabulary, dim, layers, heads, inner, theta):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, inner, theta) for _ in range(layers))
        self.norm = RMSNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, ids, remember=False):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, remember)
        return self.head(self.norm(x))
