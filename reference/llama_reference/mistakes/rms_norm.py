"""Mistakes in RMSNorm."""

import torch

from llama_reference.mistakes.mistake import mistake


def _scaled(x, mean, wide):
    return x.to(wide) * torch.rsqrt(mean)


def _eps_on_the_norm(self, x, eps):
    x = x.to(self.wide)
    return x.shape[-1] ** 0.5 * x / (x.norm(dim=-1, keepdim=True) + eps)


def _low_precision(_self, x, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _centred(self, x, eps):
    x = x.to(self.wide)
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _detached(self, x, eps):
    x = x.to(self.wide)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps).detach()


MISTAKES = [
    mistake("eps_fixed_at_1e-6", "eps is 1e-6 whatever the configuration says", "llama.cpp#2374, candle#271",
            eps=lambda _s, _c: 1e-6),
    mistake("eps_fixed_at_1e-5", "eps is 1e-5 whatever the configuration says", "lit-llama#322, gpt4all#1946",
            eps=lambda _s, _c: 1e-5),
    mistake("eps_outside_the_root", "eps is added to the root instead of under it", "scratch-llm",
            ways=[{"normalise": _eps_on_the_norm}],
            normalise=lambda s, x, eps: x.to(s.wide) / (x.to(s.wide).pow(2).mean(-1, keepdim=True).sqrt() + eps)),
    mistake("eps_missing", "nothing is added to the mean square", normalise=lambda s, x, _eps: _scaled(
        x, x.to(s.wide).pow(2).mean(-1, keepdim=True), s.wide)),
    mistake("eps_squared", "eps² is added instead of eps", normalise=lambda s, x, eps: _scaled(
        x, x.to(s.wide).pow(2).mean(-1, keepdim=True) + eps**2, s.wide)),
    mistake("eps_as_a_floor", "the mean square is kept above eps instead of eps being added to it",
            normalise=lambda s, x, eps: _scaled(x, x.to(s.wide).pow(2).mean(-1, keepdim=True).clamp(min=eps), s.wide)),
    mistake("sum_instead_of_mean", "the squares are summed, not averaged", normalise=lambda s, x, eps: _scaled(
        x, x.to(s.wide).pow(2).sum(-1, keepdim=True) + eps, s.wide)),
    mistake("divides_by_one_less", "the mean square is taken over D - 1, as an unbiased variance is",
            normalise=lambda s, x, eps: _scaled(
                x, x.to(s.wide).pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps, s.wide)),
    mistake("mean_is_subtracted", "the row is centred first, as in LayerNorm", normalise=_centred),
    mistake("variance_instead_of_mean_square", "the variance is divided by, though the row is not centred",
            normalise=lambda s, x, eps: _scaled(x, x.to(s.wide).var(-1, keepdim=True, unbiased=False) + eps, s.wide)),
    mistake("absolute_values", "the mean of absolute values is used instead of the root mean square",
            normalise=lambda s, x, eps: x.to(s.wide) / (x.to(s.wide).abs().mean(-1, keepdim=True) + eps)),
    mistake("no_root", "the mean square is divided by, without its root",
            normalise=lambda s, x, eps: x.to(s.wide) / (x.to(s.wide).pow(2).mean(-1, keepdim=True) + eps)),
    mistake("unit_length", "rows are brought to length 1, not to root mean square 1",
            normalise=lambda s, x, eps: x.to(s.wide) / (x.to(s.wide).norm(dim=-1, keepdim=True) + eps)),
    mistake("over_the_positions", "the mean runs over positions instead of channels",
            normalise=lambda s, x, eps: _scaled(x, x.to(s.wide).pow(2).mean(-2, keepdim=True) + eps, s.wide)),
    mistake("over_rows_and_channels", "one mean for all positions of a sequence",
            normalise=lambda s, x, eps: _scaled(x, x.to(s.wide).pow(2).mean((-2, -1), keepdim=True) + eps, s.wide)),
    mistake("low_precision", "the statistics are computed in the dtype of x, not in float32",
            "lightning-thunder#1713, pytorch#189581", normalise=_low_precision),
    mistake("gain_ignored", "the result is not multiplied by the weight", "torchtune#11",
            norm=lambda s, x, _gain, eps: s.normalise(x, eps).to(x.dtype)),
    mistake("one_plus_gain", "1 + weight multiplies, as in Gemma",
            norm=lambda s, x, gain, eps: (1 + gain) * s.normalise(x, eps).to(x.dtype)),
    mistake("gain_before_the_cast", "the weight multiplies in float32, and only the product is rounded",
            "transformers#30236, TransformerEngine#1132",
            norm=lambda s, x, gain, eps: (gain.to(s.wide) * s.normalise(x, eps)).to(x.dtype)),
    mistake("gain_before_the_norm", "x is multiplied by the weight first, then normalised",
            norm=lambda s, x, gain, eps: s.normalise(gain * x, eps).to(x.dtype)),
    mistake("gain_twice", "the weight multiplies twice", "torchtune#11",
            norm=lambda s, x, gain, eps: gain * (gain * s.normalise(x, eps).to(x.dtype))),
    mistake("statistics_detached", "no gradient flows through the root mean square; forward nothing shows",
            normalise=_detached),
]  # fmt: skip
