r"""Next-token cross entropy.

    loss = − (1/n) Σ_t log softmax(logits_t)[label_{t+1}]   over the n targets that are not IGNORED

in nats and float32. Labels are shifted by padding: slicing the logits changes gradient bits.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100


def next_token_loss(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"], count: int | None = None
) -> Float[Tensor, ""]:
    """Mean loss of predicting labels[:, 1:] from logits[:, :-1]; with `count`, sum / count."""
    targets = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()
    rows = logits.float().flatten(0, 1)
    mode = "mean" if count is None else "sum"
    return F.cross_entropy(rows, targets, ignore_index=IGNORED, reduction=mode) / (count or 1)
