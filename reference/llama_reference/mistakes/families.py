"""The families of mistakes with a number in them, by component."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import torch
import torch.nn.functional as F

from llama_reference.mistakes.attention import _columns
from llama_reference.mistakes.family import Family, Numbers, between, ratios, whole
from llama_reference.mistakes.kv_cache import _cropped, _fitting, _roomy, _written
from llama_reference.mistakes.mistake import Steps
from llama_reference.standard.cases import HARD
from llama_reference.standard.stepwise import Cache, StepwiseLlama

Step = Callable[..., Any]
EPS = ratios(1e-12, 1.0, 12)
TIMES = ratios(1 / 64, 64.0, 12)
THETA = ratios(10.0, 1e8, 48)
FACTOR = ratios(1 / 16, 128.0, 22)


def _normalised(by: Callable[..., Any], number: float) -> Steps:
    """normalise, from by(x, number): what x is divided by."""
    return {"normalise": lambda s, x, _eps: x.to(s.wide) / by(x.to(s.wide), number)}


def _mean_square(x: torch.Tensor) -> torch.Tensor:
    return x.pow(2).mean(-1, keepdim=True)


RMS_NORM = (
    Family("rms_norm", "eps_fixed", "eps is {n} whatever the configuration says", EPS, lambda n: {"eps": lambda _s, _c: n},
           "llama.cpp#2374, candle#271"),
    Family("rms_norm", "eps_fixed_outside_the_root", "eps is {n}, and added to the root instead of under it", EPS,
           lambda n: _normalised(lambda x, eps: _mean_square(x).sqrt() + eps, n), "scratch-llm"),
    Family("rms_norm", "eps_fixed_on_the_norm", "eps is {n}, outside the root, on the norm instead of the root of the mean", EPS,
           lambda n: _normalised(lambda x, eps: (x.norm(dim=-1, keepdim=True) + eps) / x.shape[-1] ** 0.5, n), "scratch-llm"),
    Family("rms_norm", "eps_fixed_as_a_floor", "the mean square is kept above {n} instead of eps being added to it", EPS,
           lambda n: _normalised(lambda x, eps: _mean_square(x).clamp(min=eps).sqrt(), n)),
    Family("rms_norm", "eps_on_the_sum", "eps is {n}, and added to the sum of squares before the mean is taken", EPS,
           lambda n: _normalised(lambda x, eps: ((x.pow(2).sum(-1, keepdim=True) + eps) / x.shape[-1]).sqrt(), n)),
    Family("rms_norm", "eps_times", "eps is {n} times what the configuration says", ratios(1e-6, 1e6, 12),
           lambda n: {"eps": lambda s, c: n * StepwiseLlama.eps(s, c)}),
    Family("rms_norm", "gain_plus", "weight + {n} multiplies", between(-2, 2, 8), lambda n: {
        "norm": lambda s, x, gain, eps: (n + gain) * s.normalise(x, eps).to(x.dtype)}),
    Family("rms_norm", "norm_times", "the result is {n} times what it should be", TIMES, lambda n: {
        "norm": lambda s, x, gain, eps: StepwiseLlama.norm(s, x, gain, eps) * n}),
    Family("rms_norm", "mean_over_another_number", "the sum of squares is divided by D + {n}", whole(-16, 16), lambda n: {
        "normalise": lambda s, x, eps: x.to(s.wide) * torch.rsqrt(
            x.to(s.wide).pow(2).sum(-1, keepdim=True) / (x.shape[-1] + n) + eps)}),
)  # fmt: skip


def _rope(key: str, kind: str, step: str) -> Callable[[float], Steps]:
    """A key of rope_parameters with another number, for one rope_type."""

    def steps(number: float) -> Steps:
        def frequencies(self: Any, config: Any, length: int) -> Any:
            rope = config["rope_parameters"]
            if rope["rope_type"] == kind:
                config = config | {"rope_parameters": rope | {key: number}}
            return StepwiseLlama.frequencies(self, config, length)

        return {"frequencies": frequencies}

    assert hasattr(StepwiseLlama, step)
    return steps


def _sharpened(kind: str) -> Callable[[float], Steps]:
    """Another factor on cosine and sine, for one rope_type."""

    def steps(number: float) -> Steps:
        def frequencies(self: Any, config: Any, length: int) -> Any:
            inverse, factor = StepwiseLlama.frequencies(self, config, length)
            return inverse, number if config["rope_parameters"]["rope_type"] == kind else factor

        return {"frequencies": frequencies}

    return steps


def _shifted(shift_q: float, shift_k: float) -> Steps:
    def rotary(self: Any, handle: Any, q: Any, k: Any, positions: Any) -> Any:
        (cos_q, sin_q), (cos_k, sin_k) = (
            self.angles(handle.config, positions + int(shift), q.dtype) for shift in (shift_q, shift_k)
        )
        return self.rotate(q, cos_q, sin_q), self.rotate(k, cos_k, sin_k)

    return {"rotary": rotary}


def _placed(change: Callable[..., Any]) -> Steps:
    return {
        "angles": lambda s, config, positions, dtype: StepwiseLlama.angles(s, config, change(positions), dtype),
    }


def _partly(number: float) -> Steps:
    """Only the first channels are turned, by frequencies of their own number."""
    n = int(number)

    def rotate(self: Any, x: Any, cos: Any, sin: Any) -> Any:
        if cos.shape[-1] >= x.shape[-1]:
            return StepwiseLlama.rotate(self, x, cos, sin)
        return torch.cat((StepwiseLlama.rotate(self, x[..., :n], cos, sin), x[..., n:]), dim=-1)

    return {"rotary_channels": lambda _s, c: min(n, c["head_dim"]), "rotate": rotate}


ROTARY = (
    Family("rotary", "theta_fixed", "the base is {n} whatever the configuration says", THETA,
           lambda n: {"theta": lambda _s, _c: n}, "llama2.c#356, litgpt#2217"),
    Family("rotary", "theta_times", "the base is {n} times what the configuration says", ratios(1e-3, 1e3, 24),
           lambda n: {"theta": lambda s, c: n * StepwiseLlama.theta(s, c)}),
    Family("rotary", "exponent_over_another_number", "the exponent's denominator is {n} instead of head_dim", ratios(4, 200, 48),
           lambda n: {"periods": lambda s, base, H: base ** (torch.arange(0, H, 2, dtype=s.wide) / n)}),
    *(Family("rotary", f"{kind}_{short}_fixed", f"{kind}'s {key} is {{n}} whatever the configuration says", FACTOR if numbers is None else numbers,
             _rope(key, kind, "frequencies"), seen)
      for kind, key, short, numbers, seen in (
          ("llama3", "factor", "factor", None, "TransformerLens#910"),
          ("llama3", "low_freq_factor", "low", ratios(0.25, 3.9, 16), "own"),
          ("llama3", "high_freq_factor", "high", ratios(1.02, 64, 24), "own"),
          ("llama3", "original_max_position_embeddings", "length", ratios(8, 131072, 56), "own"),
          ("linear", "factor", "factor", None, "vllm#1436"),
          ("dynamic", "factor", "factor", None, "own"),
          ("yarn", "factor", "factor", None, "own"),
          ("yarn", "original_max_position_embeddings", "length", ratios(40, 131072, 56), "own"),
      )),
    *(Family("rotary", f"{kind}_sharpened_by", f"{kind}'s cosine and sine are multiplied by {{n}}", ratios(0.25, 4, 16),
             _sharpened(kind), "sglang#33558") for kind in ("yarn", "longrope", "default", "llama3", "linear", "dynamic")),
    Family("rotary", "positions_from", "positions count from {n} instead of 0", whole(-64, 64), lambda n: _shifted(n, n)),
    Family("rotary", "keys_off_by", "the key stands {n} positions from the query of the same token", whole(-64, 64),
           lambda n: _shifted(0, n), "mobius#365, executorch#2010"),
    Family("rotary", "queries_off_by", "the query stands {n} positions from the key of the same token", whole(-64, 64),
           lambda n: _shifted(n, 0), "mobius#365, executorch#2010"),
    Family("rotary", "positions_times", "positions are multiplied by {n}", ratios(1 / 64, 64, 64),
           lambda n: _placed(lambda p: p * n)),
    Family("rotary", "channels_turned", "only the first {n} channels of a head are turned, as many as rotary has frequencies for",
           Numbers(tuple(map(float, range(2, 20, 2)))), _partly),
    Family("rotary", "table_ends_at", "positions past {n} all get the last angle", Numbers(tuple(2.0**i for i in range(4, 13))),
           lambda n: _placed(lambda p: p.clamp(max=int(n) - 1))),
    Family("rotary", "table_wraps_at", "positions wrap around at {n}", Numbers(tuple(2.0**i for i in range(4, 13))),
           lambda n: _placed(lambda p: p % int(n))),
)  # fmt: skip


def _scores(change: Callable[..., Any]) -> Steps:
    """Scores changed before the softmax; change(scores)."""
    return {"softmax": lambda s, scores: StepwiseLlama.softmax(s, change(scores))}


def _sink(number: float) -> Steps:
    def softmax(self: Any, scores: Any) -> Any:
        sink = torch.full_like(scores[..., :1], math.log(number))
        padded = torch.cat((scores, sink), dim=-1)
        return padded.softmax(dim=-1, dtype=self.wide).to(scores.dtype)[..., :-1]

    return {"softmax": softmax}


def _masked_by(number: float) -> Steps:
    def attend(self: Any, q: Any, k: Any, v: Any, seen: Any, scale: float) -> Any:
        R = q.shape[1] // k.shape[1]
        scores = q @ self.share(k, R).transpose(-2, -1) * scale - number * (~seen).to(q.dtype)
        return self.softmax(scores) @ self.share(v, R)

    return {"attend": attend}


def _window(number: float) -> Steps:
    return {"causal": _columns(lambda q, k: (k <= q) & (k > q - int(number)))}


ATTENTION = (
    Family("attention", "scale_times", "scores are {n} times what they should be", TIMES,
           lambda n: {"scale": lambda s, c: n * StepwiseLlama.scale(s, c)}),
    Family("attention", "scale_fixed", "scores are multiplied by {n} whatever head_dim is", ratios(1 / 64, 8, 9),
           lambda n: {"scale": lambda _s, _c: n}),
    Family("attention", "scale_exponent", "scores are multiplied by head_dim to the power {n} instead of -0.5", between(-2, 1, 9),
           lambda n: {"scale": lambda _s, c: float(c["head_dim"]) ** n}),
    Family("attention", "window", "a query sees the last {n} tokens only", whole(1, 47), _window),
    Family("attention", "sees_ahead", "a query also sees the next {n} tokens", whole(1, 47),
           lambda n: {"causal": _columns(lambda q, k: k <= q + int(n))}),
    Family("attention", "masked_by", "masked scores are lowered by {n} only", ratios(0.5, 512, 10), _masked_by),
    Family("attention", "scores_capped_at", "scores are softly capped at {n}, as in Gemma 2", ratios(1, 512, 9), lambda n:
           _scores(lambda y: torch.where(y < -1e4, y, n * (y / n).tanh()))),
    Family("attention", "sink_of", "{n} is added to the denominator of the softmax", ratios(1e-3, 1e3, 12), _sink),
)  # fmt: skip


def _acting(function: Step) -> Steps:
    return {"activation": lambda _s, _c, z: function(z)}


def _clamped(n: float) -> Steps:
    return {"gate": lambda s, c, gate, up: StepwiseLlama.gate(s, c, gate.clamp(max=n), up.clamp(-n, n))}


SWIGLU = (
    Family("swiglu", "sigmoid_of", "the activation is z σ({n} z)", ratios(0.1, 16, 22),
           lambda n: _acting(lambda z: z * torch.sigmoid(n * z))),
    Family("swiglu", "leaky_relu", "the activation is relu with a slope of {n} below 0", ratios(1e-3, 0.9, 20),
           lambda n: _acting(lambda z: F.leaky_relu(z, n))),
    Family("swiglu", "gate_times", "the product of gate and up is {n} times what it should be", TIMES,
           lambda n: {"gate": lambda s, c, gate, up: StepwiseLlama.gate(s, c, gate, up) * n}),
    Family("swiglu", "clamped_at", "gate and up are clamped at {n}, as in gpt-oss", ratios(0.5, 64, 21), _clamped),
)  # fmt: skip


def _residual(keep: float = 1.0, first: float = 1.0, second: float = 1.0) -> Steps:
    def block_step(self: Any, handle: Any, layer: int, x: Any, positions: Any, mask: Any, cache: Any) -> Any:
        at = f"model.layers.{layer}."
        normed = self.rms_norm(handle, at + "input_layernorm", x)
        h = keep * x + first * self.attention_step(handle, layer, normed, positions, mask, cache)
        return keep * h + second * self.swiglu(handle, layer, self.rms_norm(handle, at + "post_attention_layernorm", h))

    return {"block_step": block_step}


BLOCK = (
    Family("block", "branches_times", "both branches are multiplied by {n} before they are added", TIMES,
           lambda n: _residual(first=n, second=n)),
    Family("block", "attention_times", "attention's output is multiplied by {n} before it is added", TIMES,
           lambda n: _residual(first=n)),
    Family("block", "mlp_times", "the mlp's output is multiplied by {n} before it is added", TIMES, lambda n: _residual(second=n)),
    Family("block", "stream_times", "the stream is multiplied by {n} before a branch is added", TIMES, lambda n: _residual(keep=n)),
)  # fmt: skip

_LAYERS = HARD["num_hidden_layers"]
# Which layers run instead of 0, 1, 2: in another order, some of them, some of them twice. A family's number counts them.
RUNS = [run for n in range(1, _LAYERS + 2) for run in product(range(_LAYERS), repeat=n)]
RUNS.sort(key=lambda run: (run not in set(permutations(range(_LAYERS))), len(run) != _LAYERS - 1, run))


def run_number(*layers: int) -> float:
    """The number of the family `layers_run` that stands for these layers."""
    return float(RUNS.index(layers))


class _LayersRun(Family):
    """Tells the layers, not their number."""

    def at(self, number: float) -> Any:
        from dataclasses import replace

        layers = ", ".join(map(str, RUNS[int(number)]))
        return replace(super().at(number), why=self.why.format(n=layers))


LLAMA = (
    _LayersRun("llama", "layers_run", "the layers that run are {n}", Numbers(tuple(map(float, range(len(RUNS))))),
               lambda n: {"layers": lambda _s, _c: list(RUNS[int(n)])}),
    Family("llama", "embedding_times", "the embedding is multiplied by {n}", TIMES,
           lambda n: {"embed": lambda s, h, t: n * StepwiseLlama.embed(s, h, t)}),
    Family("llama", "logits_times", "logits are multiplied by {n}", TIMES,
           lambda n: {"head": lambda s, h, x: n * StepwiseLlama.head(s, h, x)}),
    Family("llama", "logits_capped_at", "logits are softly capped at {n}, as in Gemma 2", ratios(1, 512, 9),
           lambda n: {"head": lambda s, h, x: n * (StepwiseLlama.head(s, h, x) / n).tanh()}),
    Family("llama", "tokens_off_by", "token t + {n} is embedded instead of t", whole(-8, 8), lambda n: {
        "embed": lambda s, h, t: StepwiseLlama.embed(s, h, (t + int(n)).clamp(0, h.config["vocab_size"] - 1))}),
    Family("llama", "logits_late_by", "the logits of position t are those of t - {n}", whole(-4, 4),
           lambda n: {"head": lambda s, h, x: StepwiseLlama.head(s, h, x).roll(int(n), 1)}),
)  # fmt: skip


def _target(shift: int) -> Steps:
    def targets(_self: Any, labels: Any) -> Any:
        if shift >= 0:
            return F.pad(labels, (0, shift), value=-100)[:, shift:]
        return F.pad(labels, (-shift, 0), value=-100)[:, :shift]

    return {"targets": targets}


def _losses(add: Step) -> Steps:
    """The mean of the losses plus add(log of the sum of exponentials)."""

    def loss(self: Any, logits: Any, labels: Any) -> Any:
        counted = self.targets(labels) != -100
        return StepwiseLlama.loss(self, logits, labels) + add(logits.to(self.wide).logsumexp(-1))[counted].mean()

    return {"loss": loss}


LOSS = (
    Family("loss", "labels_shifted_by", "the token {n} positions on is predicted", whole(-6, 6), lambda n: _target(int(n))),
    Family("loss", "smoothed_by", "labels are smoothed by {n}", ratios(1e-3, 0.9, 20), lambda n: {
        "loss": lambda s, logits, labels: F.cross_entropy(
            logits.to(s.wide).flatten(0, 1), s.targets(labels).flatten(), ignore_index=-100, label_smoothing=n)}),
    Family("loss", "loss_times", "the loss is {n} times what it should be", ratios(1 / 512, 512, 36),
           lambda n: {"loss": lambda s, logits, labels: n * StepwiseLlama.loss(s, logits, labels)}),
    Family("loss", "logits_divided", "logits are divided by {n} first, as by a temperature", TIMES,
           lambda n: {"loss": lambda s, logits, labels: StepwiseLlama.loss(s, logits / n, labels)}),
    Family("loss", "ignored_as_token", "ignored labels count as token {n}", whole(0, 100), lambda n: {
        "targets": lambda s, labels: StepwiseLlama.targets(s, labels).where(StepwiseLlama.targets(s, labels) != -100, int(n))}),
    Family("loss", "token_ignored", "token {n} is ignored too, as if it were padding", whole(0, 100), lambda n: {
        "targets": lambda s, labels: StepwiseLlama.targets(s, labels).masked_fill(StepwiseLlama.targets(s, labels) == int(n), -100)}),
    Family("loss", "z_loss", "{n} times the squared logarithm of the sum of exponentials is added", ratios(1e-6, 1, 24),
           lambda n: _losses(lambda z: n * z**2)),
)  # fmt: skip


def _knob(name: str, value: Callable[..., Any]) -> Steps:
    """One knob of sampling turned otherwise than asked."""

    def sampling(self: Any, logits: Any, tokens: Any, *knobs: Any, **named: Any) -> Any:
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        asked = dict(zip(names, knobs, strict=False)) | named
        return StepwiseLlama.sampling(self, logits, tokens, **asked | {name: value(asked[name])})

    return {"sampling": sampling}


SAMPLING = (
    Family("sampling", "temperature_times", "the temperature is multiplied by {n}", ratios(1 / 8, 8, 18),
           lambda n: {"temper": lambda _s, y, t: y / (t * n)}),
    Family("sampling", "temperature_fixed", "the temperature is {n} whatever is asked for", ratios(0.1, 10, 20),
           lambda n: {"temper": lambda _s, y, _t: y / n}),
    Family("sampling", "top_k_off_by", "{n} tokens more than top-k are kept", whole(-5, 5),
           lambda n: {"keep_top_k": lambda s, y, k: StepwiseLlama.keep_top_k(s, y, max(k + int(n), 1))}),
    Family("sampling", "top_k_default", "top-k is {n} where it is off", whole(1, 100),
           lambda n: _knob("top_k", lambda k: int(n) if k is None else k)),
    Family("sampling", "penalty_fixed", "the repetition penalty is {n} whatever is asked for", ratios(0.25, 8, 20),
           lambda n: {"penalise": lambda s, y, t, _r: StepwiseLlama.penalise(s, y, t, n)}),
    Family("sampling", "penalty_default", "the repetition penalty is {n} where it is off", ratios(0.5, 4, 18),
           lambda n: _knob("repetition_penalty", lambda r: n if r is None else r)),
    Family("sampling", "penalty_window", "only the last {n} tokens are penalised", whole(1, 47), lambda n: {
        "penalise": lambda s, y, t, r: StepwiseLlama.penalise(s, y, t[:, -int(n):], r)}),
    Family("sampling", "filtered_to", "filtered logits are set to {n} instead of -inf", between(-100, 0, 25), lambda n: {
        "distribution": lambda _s, y: y.masked_fill(y == -math.inf, n).softmax(-1)}),
    Family("sampling", "top_p_times", "top-p is multiplied by {n}", ratios(0.5, 1.5, 10),
           lambda n: {"keep_top_p": lambda s, y, p: StepwiseLlama.keep_top_p(s, y, min(p * n, 1.0))}),
    Family("sampling", "min_p_times", "min-p is multiplied by {n}", ratios(0.25, 4, 10),
           lambda n: {"keep_min_p": lambda s, y, m: StepwiseLlama.keep_min_p(s, y, min(m * n, 1.0))}),
)  # fmt: skip


def _advancing(n: int) -> Steps:
    def advance(_self: Any, cache: Cache, T: int) -> None:
        cache.filled += max(T + n, 0)

    return {"advance": advance, "may_look": _fitting, "new_cache": _roomy}


KV_CACHE = (
    Family("kv_cache", "crop_off_by", "a crop leaves {n} positions more than asked for", whole(-4, 4),
           lambda n: _cropped(lambda filled, wanted: min(wanted + int(n), filled))),
    Family("kv_cache", "reset_keeps", "an emptied cache keeps its first {n} positions", whole(1, 8),
           lambda n: _cropped(lambda _filled, wanted: max(wanted, int(n)))),
    Family("kv_cache", "writes_off_by", "a call writes {n} positions from where it should", whole(-4, -1), lambda n: {
        "write": _written(lambda at, _store, _new: max(at + int(n), 0))}),
    Family("kv_cache", "advances_off_by", "the length moves by T + {n} a call", whole(-3, 3), lambda n: _advancing(int(n))),
)  # fmt: skip


def _decoding(n: int) -> Steps:
    def next_positions(self: Any, mask: Any, T: int) -> Any:
        positions = StepwiseLlama.next_positions(self, mask, T)
        return (positions + n).clamp(min=0) if T == 1 else positions

    return {"next_positions": next_positions}


def _longer(n: int) -> Steps:
    return {
        "generate": lambda s, h, tokens, mask, new, use_cache, stop=(): StepwiseLlama.generate(
            s, h, tokens, mask, max(new + n, 0), use_cache, stop
        )
    }


GENERATE = (
    Family("generate", "positions_off_by", "decoded tokens stand {n} positions from where they belong", whole(-8, 8),
           lambda n: _decoding(int(n)), "mobius#365, executorch#2010"),
    Family("generate", "likeliest_but", "the token with {n} likelier ones is taken", whole(1, 8),
           lambda n: {"choose": lambda _s, y: y.topk(int(n) + 1).indices[:, -1]}),
    Family("generate", "tokens_too_many", "{n} tokens more than asked for are added", whole(-4, 4), lambda n: _longer(int(n))),
)  # fmt: skip

FAMILIES: dict[str, tuple[Family, ...]] = {
    "rms_norm": RMS_NORM,
    "rotary": ROTARY,
    "attention": ATTENTION,
    "swiglu": SWIGLU,
    "block": BLOCK,
    "kv_cache": KV_CACHE,
    "llama": LLAMA,
    "loss": LOSS,
    "sampling": SAMPLING,
    "generate": GENERATE,
}
