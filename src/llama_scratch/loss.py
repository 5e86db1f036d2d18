r"""Next-token cross entropy.

    loss = − (1/n) Σ_t log softmax(logits_t)[label_{t+1}]     over the n targets that are not IGNORED

in nats and float32. Labels are shifted by padding, as transformers does: slicing the logits changes gradient bits.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llama_scratch.config import Logits, Tokens

IGNORED = -100


def next_token_loss(logits: Logits, labels: Tokens, count: int | None = None) -> Float[Tensor, ""]:
    """Mean loss of predicting labels[:, 1:] from logits[:, :-1], but for labels that are IGNORED; with `count`, their sum
    divided by it: by the targets of the whole batch, where this is a part of one."""
    shifted, how = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten(), "mean" if count is None else "sum"
    return F.cross_entropy(logits.float().flatten(0, 1), shifted, ignore_index=IGNORED, reduction=how) / (count or 1)
