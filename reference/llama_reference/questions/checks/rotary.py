"""Queries and keys turned: by the first positions, where every fast pair is told apart, and far beyond the context."""

import torch
from torch import Tensor

from llama_reference.implementation import Rotary
from llama_reference.standard.cases import HARD, LENGTH, ROPES, SHORT, Case

VARIANTS = ("hard", "head_dim is hidden / heads", *(f"rope {name}" for name in ROPES if name != "llama3"))

# where bfloat16 positions, tables of a fixed length and float32 angles give way
EDGES = (0, 1, 255, 256, 257, 2047, 2048, 4095)


def places(case: Case) -> dict[str, Tensor]:
    """Positions (B, T) by label; those of a Llama that only counts from 0 reach as far as they may."""
    first = torch.arange(LENGTH).expand(case.rows, -1)
    if case.profile.positions:
        edges = torch.tensor(EDGES)[None]
        return {"first positions": first, "an offset for each row": case.positions, "edges": edges}
    longest = torch.arange(HARD["max_position_embeddings"])[None]
    return {"first positions": first, "few positions": first[:, : SHORT // 2], "all positions": longest}


def ask(implementation: Rotary, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    N = case.config["num_attention_heads"]
    G = case.config["num_key_value_heads"]
    H = case.config["head_dim"]
    answers: dict[str, Tensor] = {}
    for label, positions in places(case).items():
        B, T = positions.shape
        q, k = implementation.rotary(handle, case.normal(B, N, T, H), case.normal(B, G, T, H, salt=1), positions)
        answers |= {f"query, {label}": q, f"key, {label}": k}
    return answers
