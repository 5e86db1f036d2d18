"""Queries and keys turned: by the first positions, where every fast pair is told apart, and far beyond the context."""

import torch
from torch import Tensor

from llama_reference.implementation import Rotary
from llama_reference.standard.cases import LENGTH, OFFSETS, ROPES, Case

VARIANTS = ("hard", "head_dim is hidden / heads", *(f"rope {name}" for name in ROPES if name != "llama3"))

# where bfloat16 positions, tables of a fixed length and float32 angles give way
EDGES = (0, 1, 255, 256, 257, 2047, 2048, 4095)


def ask(implementation: Rotary, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    N, G, H = (case.config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    places = {
        "first positions": torch.arange(LENGTH).expand(len(OFFSETS), -1),
        "an offset for each row": case.positions,
        "edges": torch.tensor(EDGES)[None],
    }
    answers: dict[str, Tensor] = {}
    for label, positions in places.items():
        B, T = positions.shape
        q, k = implementation.rotary(handle, case.normal(B, N, T, H), case.normal(B, G, T, H, salt=1), positions)
        answers |= {f"query, {label}": q, f"key, {label}": k}
    return answers
