r"""Root mean square layer normalisation.

    y_i = g_i · x_i / √( (1/D) Σ_j x_j² + ε )

in float32 whatever x is, and rounded to x's dtype before the gain g multiplies it.

Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4; ε as in the Llama code.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Rescale the last axis, of `dim` channels, to root mean square 1; multiply by the gain."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        x32 = x.float()
        mean_square = x32.pow(2).mean(-1, keepdim=True)
        return self.weight * (x32 * torch.rsqrt(mean_square + self.eps)).to(x.dtype)
