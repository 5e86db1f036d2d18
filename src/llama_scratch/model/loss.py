r"""Next-token cross entropy.

    loss = − (1/n) Σ_t log softmax(logits_t)[label_{t+1}]     over the n targets that are not IGNORED

in nats and float32. Labels are shifted by padding, as transformers does: slicing the logits changes gradient bits.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100


def next_token_loss(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"],
                    count: int | None = None) -> Float[Tensor, ""]:  # fmt: skip
    """Mean loss of predicting labels[:, 1:] from logits[:, :-1]; with `count` it is their sum / count."""
    shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()
    how = "mean" if count is None else "sum"
    return F.cross_entropy(logits.float().flatten(0, 1), shifted, ignore_index=IGNORED, reduction=how) / (count or 1)
