"""Cross entropy in nats: the mean of -log softmax(logits_t)[label_{t+1}] over the labels that are not ignored."""

import numpy as np

from llama_reference.standard.formula.arrays import Array


def loss(logits: Array, labels: Array, ignored: int = -100) -> float:
    """Logits (B, T, V), labels (B, T)."""
    predicting = logits[:, :-1]
    targets = labels[:, 1:].astype(int)
    top = predicting.max(-1, keepdims=True)
    log_sum = top[..., 0] + np.log(np.exp(predicting - top).sum(-1))
    chosen = np.take_along_axis(predicting, np.maximum(targets, 0)[..., None], -1)[..., 0]
    return float((log_sum - chosen)[targets != ignored].mean())
