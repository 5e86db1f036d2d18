"""transformers' processors, in the order and under the conditions of GenerationMixin._get_logits_processor."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def sampling(
    logits: Tensor,
    tokens: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
) -> Tensor:
    processors: list[Any] = []
    if repetition_penalty is not None and repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
    if temperature != 0:  # 0 is do_sample=False, which has no filters
        if temperature != 1:
            processors.append(TemperatureLogitsWarper(float(temperature)))
        if top_k is not None:
            processors.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1:
            processors.append(TopPLogitsWarper(top_p))
        if min_p is not None:
            processors.append(MinPLogitsWarper(min_p))
    scores = logits.to(torch.float32, copy=True)
    for process in processors:
        scores = process(tokens, scores)
    if temperature == 0:
        return one_hot(scores.argmax(-1), scores.shape[-1]).float()
    return scores.softmax(-1)
