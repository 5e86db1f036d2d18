"""The sizes of a run from one setting; each can be overridden by its own flag."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Preset = Literal["tiny", "small", "base"]


class Size(NamedTuple):
    """What a preset determines."""

    layers: int
    head_dim: int
    vocab_size: int
    seq_len: int
    batch_size: int
    grad_accum_steps: int
    steps: int
    weight_decay: float  # more where a text is read several times over


SIZES: dict[Preset, Size] = {
    "tiny": Size(4, 32, 1024, 128, 8, 1, 720, 0.5),  # 0.9 M parameters: about a minute on two cores
    "small": Size(6, 64, 4096, 256, 16, 1, 5_000, 0.1),  # 10 M: an hour or two there
    "base": Size(12, 64, 32_000, 1024, 256, 8, 20_000, 0.1),  # 103 M and 5 G tokens, 50 per parameter: for GPUs
}


def settings(preset: Preset) -> dict[str, Any]:
    """Fields of a TrainConfig for a preset.

    There are as many heads as layers, so the width grows with the depth. The learning rate is inversely proportional to
    the width (Yang et al. 2022, "Tensor Programs V", table 3).
    """
    size = SIZES[preset]
    hidden_size = size.layers * size.head_dim
    every = size.steps // 5
    return {
        "preset": preset,
        "layers": size.layers,
        "heads": size.layers,
        "hidden_size": hidden_size,
        "vocab_size": size.vocab_size,
        "seq_len": size.seq_len,
        "batch_size": size.batch_size,
        "grad_accum_steps": size.grad_accum_steps,
        "steps": size.steps,
        "learning_rate": 4e-3 * 128 / hidden_size,
        "warmup": size.steps // 16,
        "weight_decay": size.weight_decay,
        "eval_every": every,
        "save_every": every,
    }
