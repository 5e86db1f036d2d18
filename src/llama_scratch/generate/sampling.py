r"""The distribution of the next token: logits z, penalised, tempered, filtered; then softmax.

    repetition penalty θ    z_i ← z_i / θ  where z_i ≥ 0,  z_i · θ  where z_i < 0;   for tokens i of the text so far
    temperature τ           z_i ← z_i / τ;                            τ = 0: the likeliest token and no other
    top-k                   keeps i where  z_i ≥ the k-th largest z
    top-p                   keeps i where  Σ p_j over the likelier j  <  p
    min-p                   keeps i where  p_i ≥ m · max_j p_j

in this order and in float32, as transformers does; p = softmax(z) of what the steps before have left, and what is not
kept gets z_i = −∞. At least one token stays. Of tied tokens top-k and min-p keep all or none; top-p keeps as many as
it needs, with a stable sort those with the highest ids.

Keskar et al. 2019, "CTRL", 4.1, which divides negative logits too and so makes them likelier: transformers multiplies.
Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation" (top-k). Holtzman et al. 2020, "The Curious Case of
Neural Text Degeneration", 3.1 (top-p). Nguyen et al. 2024, "Turning Up the Heat" (min-p).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llama_scratch.model.config import Tokens
from llama_scratch.model.config_rules import Rule, check, is_positive_int

RULES: dict[str, Rule] = {
    "temperature": ("0 (greedy) or a positive number", lambda v: 0 <= v < inf),
    "top_k": (
        "a positive integer, or None for all tokens",
        lambda v: v is None or is_positive_int(v),
    ),
    "top_p": ("a number from 0 to 1, or None for all tokens", lambda v: v is None or 0 <= v <= 1),
    "min_p": ("a number from 0 to 1, or None for all tokens", lambda v: v is None or 0 <= v <= 1),
    "repetition_penalty": ("a positive number, or None", lambda v: v is None or 0 < v < inf),
}


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; None switches a filter off. Raises ConfigError for an invalid value."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            check(name, getattr(self, name), *rule)


def next_token_probabilities(
    logits: Float[Tensor, "B V"],
    tokens: Tokens,
    params: SamplingParams,
    attention_mask: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B V"]:
    """Distribution of the next token; `tokens` is the text so far, and attention_mask is 0 for its padding."""
    logits = penalised(logits, tokens, params, attention_mask)
    if params.temperature == 0:
        return F.one_hot(likeliest(logits), logits.shape[-1]).float()
    logits = temperature(logits, params.temperature)
    if params.top_k is not None:
        logits = top_k(logits, params.top_k)
    if params.top_p is not None:
        logits = top_p(logits, params.top_p)
    if params.min_p is not None:
        logits = min_p(logits, params.min_p)
    return logits.softmax(-1)


def penalised(
    logits: Float[Tensor, "B V"],
    tokens: Tokens,
    params: SamplingParams,
    attention_mask: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B V"]:
    """Logits in float32 after the repetition penalty, which is all that greedy decoding needs."""
    if params.repetition_penalty is None:
        return logits.float()
    return repetition_penalty(logits.float(), tokens, params.repetition_penalty, attention_mask)


def likeliest(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """Token with the largest logit of each row. On a CPU by numpy: 3 us for 32,000 numbers, torch takes 28."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.detach().numpy().argmax(-1))


def repetition_penalty(
    logits: Float[Tensor, "B V"], tokens: Tokens, penalty: float, attention_mask: Int[Tensor, "B T"] | None = None
) -> Float[Tensor, "B V"]:
    """Make each token of the text less likely, once however often it occurs; a penalty below 1 makes it likelier."""
    # as in transformers, only zeros before the first real token are padding
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.cummax(dim=1).values
    seen = torch.zeros_like(logits, dtype=real.dtype).scatter_add(1, tokens, real) > 0
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def temperature(logits: Float[Tensor, "B V"], tau: float) -> Float[Tensor, "B V"]:
    """Sharpen the distribution (tau < 1) or flatten it (tau > 1)."""
    return logits / tau


def top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """Keep the k likeliest tokens, and those tied with the last of them."""
    kth = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < kth, -inf)


def top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Keep the fewest tokens that together have at least probability p."""
    ascending, order = logits.sort(dim=-1)
    # summed from the unlikeliest on, as transformers does: from the other end, boundaries round differently
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
    removed[:, -1] = False
    return logits.masked_fill(removed.scatter(1, order, removed), -inf)


def min_p(logits: Float[Tensor, "B V"], fraction: float) -> Float[Tensor, "B V"]:
    """Keep the tokens that are at least `fraction` times as likely as the likeliest."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < fraction * probabilities.amax(-1, keepdim=True), -inf)
