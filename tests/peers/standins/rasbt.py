"""A Llama as the chapters of a book build it: a dictionary of settings, tables of cosines and sines from functions,
pairs in halves, heads of keys and values repeated, torch's own norm with one ε for all, a list of pairs for a cache.
"""

import torch
from torch import nn


def compute_rope_params(head_dim, theta_base, context_length):
    inv_freq = 1.0 / (theta_base ** (torch.arange(0, head_dim, 2).float() / head_dim))
    positions = torch.arange(context_length)
    angles = positions.unsqueeze(1) * inv_freq.unsqueeze(0)
    angles = torch.cat([angles, angles], dim=1)
    return torch.cos(angles), torch.sin(angles)


def apply_rope(x, cos, sin, offset=0):
    """x (B, heads, T, H)."""
    T, H = x.shape[-2:]
    x1, x2 = x[..., : H // 2], x[..., H // 2 :]
    cos, sin = cos[offset : offset + T], sin[offset : offset + T]
    rotated = torch.cat((-x2, x1), dim=-1)
    return (x * cos + rotated * sin).to(x.dtype)


class KVCache:
    def __init__(self, n_layers):
        self.pairs = [None] * n_layers

    def get(self, layer):
        return self.pairs[layer]

    def update(self, layer, pair):
        self.pairs[layer] = pair


class FeedForward(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.fc1 = nn.Linear(cfg["emb_dim"], cfg["hidden_dim"], bias=False)
        self.fc2 = nn.Linear(cfg["emb_dim"], cfg["hidden_dim"], bias=False)
        self.fc3 = nn.Linear(cfg["hidden_dim"], cfg["emb_dim"], bias=False)

    def forward(self, x):
        x_fc1 = self.fc1(x)
        x_fc2 = self.fc2(x)
        x = nn.functional.silu(x_fc1) * x_fc2
        return self.fc3(x)


class GroupedQueryAttention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d_in, self.num_heads, self.num_kv_groups = cfg["emb_dim"], cfg["n_heads"], cfg["n_kv_groups"]
        self.head_dim = d_in // self.num_heads
        self.group_size = self.num_heads // self.num_kv_groups
        self.W_query = nn.Linear(d_in, d_in, bias=False)
        self.W_key = nn.Linear(d_in, self.num_kv_groups * self.head_dim, bias=False)
        self.W_value = nn.Linear(d_in, self.num_kv_groups * self.head_dim, bias=False)
        self.out_proj = nn.Linear(d_in, d_in, bias=False)

    def forward(self, x, mask, cos, sin, start_pos=0, cache=None):
        b, num_tokens, _ = x.shape
        queries = self.W_query(x).view(b, num_tokens, self.num_heads, self.head_dim).transpose(1, 2)
        keys = self.W_key(x).view(b, num_tokens, self.num_kv_groups, self.head_dim).transpose(1, 2)
        values = self.W_value(x).view(b, num_tokens, self.num_kv_groups, self.head_dim).transpose(1, 2)

        queries = apply_rope(queries, cos, sin, offset=start_pos)
        keys = apply_rope(keys, cos, sin, offset=start_pos)
        if cache is not None:
            prev_k, prev_v = cache
            keys = torch.cat([prev_k, keys], dim=2)
            values = torch.cat([prev_v, values], dim=2)
        next_cache = (keys, values)

        keys = keys.repeat_interleave(self.group_size, dim=1)
        values = values.repeat_interleave(self.group_size, dim=1)
        attn_scores = queries @ keys.transpose(2, 3)
        attn_scores = attn_scores.masked_fill(mask, -torch.inf)
        attn_weights = torch.softmax(attn_scores / self.head_dim**0.5, dim=-1)
        context_vec = (attn_weights @ values).transpose(1, 2).reshape(b, num_tokens, -1)
        return self.out_proj(context_vec), next_cache


class TransformerBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.att, self.ff = GroupedQueryAttention(cfg), FeedForward(cfg)
        self.norm1 = nn.RMSNorm(cfg["emb_dim"], eps=1e-5)
        self.norm2 = nn.RMSNorm(cfg["emb_dim"], eps=1e-5)

    def forward(self, x, mask, cos, sin, start_pos=0, cache=None):
        shortcut = x
        x = self.norm1(x)
        x, next_cache = self.att(x, mask, cos, sin, start_pos, cache)
        x = x + shortcut
        shortcut = x
        x = self.norm2(x)
        x = self.ff(x)
        return x + shortcut, next_cache


class Llama3Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.trf_blocks = nn.ModuleList([TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = nn.RMSNorm(cfg["emb_dim"], eps=1e-5)
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)
        self.cos, self.sin = compute_rope_params(
            cfg["emb_dim"] // cfg["n_heads"], cfg["rope_base"], cfg["context_length"]
        )

    def hidden(self, start, num_tokens):
        """True where a query, one of the last num_tokens, may not look."""
        S = start + num_tokens
        return torch.triu(torch.ones(S, S, dtype=torch.bool), diagonal=1)[start:S]

    def forward(self, in_idx, start=0, cache=None):
        x = self.tok_emb(in_idx)
        mask = self.hidden(start, in_idx.shape[1])
        for i, block in enumerate(self.trf_blocks):
            x, pair = block(x, mask, self.cos, self.sin, start, cache.get(i) if cache else None)
            if cache is not None:
                cache.update(i, pair)
        return self.out_head(self.final_norm(x))
