"""transformers' causal language-model loss."""

from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    mean: Tensor = ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])
    return mean
