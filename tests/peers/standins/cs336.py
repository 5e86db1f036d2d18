"""A student's Llama: one file, as a course asks for it. Keys are masked by -inf, pairs of neighbours are turned, there
is no cache and no padding, and positions are those of the call.
"""

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight)


class Embedding(nn.Module):
    def __init__(self, count, size):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size))

    def forward(self, ids):
        return self.weight[ids]


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype)


class Rope(nn.Module):
    def __init__(self, theta, size, longest):
        super().__init__()
        speeds = theta ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(longest), speeds)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x, positions):
        cos, sin = self.cos[positions], self.sin[positions]
        if x.dim() == cos.dim() + 1:
            cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, size, heads, rope):
        super().__init__()
        self.heads, self.rope = heads, rope
        self.q_proj, self.k_proj, self.v_proj, self.output_proj = (Linear(size, size) for _ in range(4))

    def forward(self, x, positions):
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        k = self.k_proj(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        v = self.v_proj(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        q, k = self.rope(q, positions), self.rope(k, positions)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.output_proj((weights @ v).transpose(-2, -3).flatten(-2))


class SwiGLU(nn.Module):
    def __init__(self, size, inner):
        super().__init__()
        self.w1 = Linear(size, inner)
        self.w2 = Linear(inner, size)
        self.w3 = Linear(size, inner)

    def forward(self, x):
        gate = self.w1(x)
        return self.w2(gate * torch.sigmoid(gate) * self.w3(x))


class Block(nn.Module):
    def __init__(self, size, heads, inner, eps, rope):
        super().__init__()
        self.ln1, self.ln2 = RMSNorm(size, eps), RMSNorm(size, eps)
        self.attn = Attention(size, heads, rope)
        self.ffn = SwiGLU(size, inner)

    def forward(self, x, positions):
        x = x + self.attn(self.ln1(x), positions)
        return x + self.ffn(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocabulary, longest, size, layers, heads, inner, theta, eps):
        super().__init__()
        rope = Rope(theta, size // heads, longest)
        self.token_embeddings = Embedding(vocabulary, size)
        self.layers = nn.ModuleList(Block(size, heads, inner, eps, rope) for _ in range(layers))
        self.ln_final = RMSNorm(size, eps)
        self.lm_head = Linear(size, vocabulary)

    def forward(self, ids):
        x = self.token_embeddings(ids)
        positions = torch.arange(ids.shape[-1])
        for layer in self.layers:
            x = layer(x, positions)
        return self.lm_head(self.ln_final(x))
