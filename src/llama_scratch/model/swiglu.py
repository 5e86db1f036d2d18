r"""The gated feed-forward layer.

    y = W_down ( φ(W_gate x) ⊙ W_up x ),    φ = SiLU: z · σ(z)

With `mlp_bias` each product adds its bias. φ is `hidden_act`; with GELU this is called GEGLU.

Shazeer 2020, "GLU Variants Improve Transformer", eq. 6.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import nn

from llama_scratch.model.config import Hidden, LlamaConfig

ACTIVATION: dict[str, Any] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
ACTIVATION["gelu_pytorch_tanh"] = partial(F.gelu, approximate="tanh")


class SwiGLU(nn.Module):
    """Two parallel projections to F channels, one gating the other, and one back."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(D, F, bias=config.mlp_bias)
        self.up_proj = nn.Linear(D, F, bias=config.mlp_bias)
        self.down_proj = nn.Linear(F, D, bias=config.mlp_bias)
        self.activation = ACTIVATION[config.hidden_act]

    def forward(self, x: Hidden) -> Hidden:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
