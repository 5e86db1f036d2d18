"""Mistakes in sampling."""

import math

import torch

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _said(scores, tokens):
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, tokens, True)


def _each_time(_self, scores, tokens, penalty):
    for column in tokens.T:
        scores = StepwiseLlama.penalise(_self, scores, column[:, None], penalty)
    return scores


def _descending_top_p(keep):
    """keep(before, p): which tokens stay, given the probability of all likelier ones."""

    def keep_top_p(_self, scores, p):
        descending, order = scores.sort(dim=-1, descending=True)
        likely = descending.softmax(-1)
        kept = keep(likely.cumsum(-1) - likely, likely.cumsum(-1), p)
        kept[:, 0] = True
        return scores.masked_fill(~torch.zeros_like(kept).scatter(1, order, kept), -math.inf)

    return keep_top_p


def _not_scattered_back(_self, scores, p):
    ascending, _ = scores.sort(dim=-1)
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
    removed[:, -1] = False
    return scores.masked_fill(removed, -math.inf)


def _summed_logits(_self, scores, p):
    ascending, order = scores.sort(dim=-1)
    removed = ascending.cumsum(-1) <= 1 - p
    removed[:, -1] = False
    return scores.masked_fill(removed.scatter(1, order, removed), -math.inf)


def _exactly_k(_self, scores, k):
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(min(k, scores.shape[-1])).indices, True)
    return scores.masked_fill(~kept, -math.inf)


def _silent_top_k(self, logits, tokens, temperature, top_k, top_p, min_p, repetition_penalty):
    k = 50 if top_k is None else top_k
    return StepwiseLlama.sampling(self, logits, tokens, temperature, k, top_p, min_p, repetition_penalty)


MISTAKES = [
    mistake("temperature_multiplies", "logits are multiplied by the temperature", temper=lambda _s, y, t: y * t),
    mistake("temperature_ignored", "the temperature is ignored", temper=lambda _s, y, _t: y),
    mistake("temperature_last", "the temperature acts after the filters", "mlx-lm#388",
            order=lambda _s: ("top_k", "top_p", "min_p", "temperature")),
    mistake("top_p_before_top_k", "top-p acts before top-k", "mlx-lm#388",
            order=lambda _s: ("temperature", "top_p", "top_k", "min_p")),
    mistake("min_p_first", "min-p acts before the other filters",
            order=lambda _s: ("temperature", "min_p", "top_k", "top_p")),
    mistake("top_p_drops_the_crossing_token", "the token that crosses p is dropped", "transformers#18976",
            keep_top_p=_descending_top_p(lambda _before, upto, p: upto <= p)),
    mistake("top_p_keeps_one_more", "at equality one token more is kept, as in Meta's code", "llama.cpp#1953",
            keep_top_p=_descending_top_p(lambda before, _upto, p: before <= p)),
    mistake("top_p_not_scattered_back", "the mask of the sorted logits is applied to the unsorted",
            keep_top_p=_not_scattered_back),
    mistake("top_p_of_logits", "logits, not probabilities, are summed for top-p", keep_top_p=_summed_logits),
    mistake("top_p_ignored", "top-p is ignored", keep_top_p=lambda _s, y, _p: y),
    mistake("top_k_drops_ties", "exactly k tokens are kept, whatever ties with the last", keep_top_k=_exactly_k),
    mistake("top_k_keeps_one_more", "k + 1 tokens are kept", keep_top_k=lambda s, y, k: StepwiseLlama.keep_top_k(s, y, k + 1)),
    mistake("top_k_strict", "tokens that equal the k-th are dropped", keep_top_k=lambda _s, y, k: torch.where(
        y >= y.amax(-1, keepdim=True), y, y.masked_fill(y <= y.topk(min(k, y.shape[-1])).values[:, -1:], -math.inf))),
    mistake("top_k_50", "top-k is 50 where it is off", "transformers' default when sampling", sampling=_silent_top_k),
    mistake("min_p_absolute", "min-p is a bound on the probability itself, not a share of the likeliest",
            keep_min_p=lambda _s, y, m: y.masked_fill((y.softmax(-1) < m) & (y < y.amax(-1, keepdim=True)), -math.inf)),
    mistake("min_p_strict", "tokens at exactly the bound of min-p are dropped",
            keep_min_p=lambda _s, y, m: y.masked_fill((y.softmax(-1) <= m * y.softmax(-1).amax(-1, keepdim=True))
                                                      & (y < y.amax(-1, keepdim=True)), -math.inf)),
    mistake("penalty_divides_negatives", "negative logits are divided too, which makes them likelier",
            "transformers#2302, NeMo#8194", penalise=lambda _s, y, t, r: torch.where(_said(y, t), y / r, y)),
    mistake("penalty_subtracts", "the penalty is subtracted from the logit",
            penalise=lambda _s, y, t, r: torch.where(_said(y, t), y - r, y)),
    mistake("penalty_each_time", "a token is penalised as often as it stands in the text", penalise=_each_time),
    mistake("penalty_on_the_rest", "what was not said yet is penalised", penalise=lambda _s, y, t, r: torch.where(
        _said(y, t), y, torch.where(y < 0, y * r, y / r))),
    mistake("filtered_to_zero", "filtered logits are set to 0 instead of -inf",
            distribution=lambda _s, y: y.masked_fill(y == -math.inf, 0.0).softmax(-1)),
    mistake("filtered_to_minus_10", "filtered logits are set to -10 instead of -inf",
            distribution=lambda _s, y: y.nan_to_num(neginf=-10.0).softmax(-1)),
    mistake("softmax_in_bfloat16", "the softmax runs in bfloat16",
            distribution=lambda _s, y: y.bfloat16().softmax(-1).float()),
]  # fmt: skip
