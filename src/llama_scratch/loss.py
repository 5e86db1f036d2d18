r"""Next-token cross entropy.

    loss = − (1/n) Σ_t log softmax(logits_t)[label_{t+1}]     over the n targets that are not IGNORED

in nats and float32. Labels are shifted by padding, as transformers does: slicing the logits changes gradient bits.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100


def next_token_loss(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean loss of predicting labels[:, 1:] from logits[:, :-1]; `labels` are the tokens themselves, IGNORED where a
    token is no target.
    """
    shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return F.cross_entropy(logits.float().flatten(0, 1), shifted.flatten(), ignore_index=IGNORED)
