"""Families of mistakes in the decoding loop."""

from __future__ import annotations

from typing import Any

from llama_reference.mistakes.family import Family, whole
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.stepwise import StepwiseLlama


def _decoding(n: int) -> Steps:
    def next_positions(self: Any, mask: Any, T: int) -> Any:
        positions = StepwiseLlama.next_positions(self, mask, T)
        return (positions + n).clamp(min=0) if T == 1 else positions

    return {"next_positions": next_positions}


def _longer(n: int) -> Steps:
    return {
        "generate": lambda s, h, tokens, mask, new, use_cache, stop=(): StepwiseLlama.generate(
            s, h, tokens, mask, max(new + n, 0), use_cache, stop
        )
    }


FAMILIES = (
    Family("generate", "positions_off_by", "decoded tokens stand {n} positions from where they belong", whole(-8, 8),
           lambda n: _decoding(int(n)), "mobius#365, executorch#2010"),
    Family("generate", "likeliest_but", "the token with {n} likelier ones is taken", whole(1, 8),
           lambda n: {"choose": lambda _s, y: y.topk(int(n) + 1).indices[:, -1]}),
    Family("generate", "tokens_too_many", "{n} tokens more than asked for are added", whole(-4, 4), lambda n: _longer(int(n))),
)  # fmt: skip
