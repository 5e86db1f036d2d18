"""Mistakes in the rotary embedding."""

import math
from copy import copy

import torch

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _neighbours(_self, x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def _neighbour_pairs(self, x, cos, sin):
    cos = cos[..., : cos.shape[-1] // 2].repeat_interleave(2, -1)
    sin = sin[..., : sin.shape[-1] // 2].repeat_interleave(2, -1)
    return x * cos[:, None] + _neighbours(self, x) * sin[:, None]


def _mixed_layouts(_self, x, cos, sin):
    half = x.shape[-1] // 2
    cos, sin = cos[:, None, :, :half], sin[:, None, :, :half]
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _at(shift_q, shift_k):
    def rotary(self, handle, q, k, positions):
        cos_q, sin_q = self.angles(handle.config, positions + shift_q, q.dtype)
        cos_k, sin_k = self.angles(handle.config, positions + shift_k, q.dtype)
        return self.rotate(q, cos_q, sin_q), self.rotate(k, cos_k, sin_k)

    return rotary


def _only(which):
    def rotary(self, handle, q, k, positions):
        turned = StepwiseLlama.rotary(self, handle, q, k, positions)
        return (turned[0], k) if which == "q" else (q, turned[1])

    return rotary


def _against_each_other(which):
    """The one that is named turns by the negative angle."""

    def rotary(self, handle, q, k, positions):
        cos, sin = self.angles(handle.config, positions, q.dtype)
        turned = {name: self.rotate(x, cos, -sin if name == which else sin) for name, x in (("q", q), ("k", k))}
        return turned["q"], turned["k"]

    return rotary


def _turned_by_head(positions_of):
    """As it comes out where cosine and sine, looked up for positions, meet heads on the axis that they run along."""

    def rotary(self, handle, q, k, positions):
        cos, sin = self.angles(handle.config, positions_of(positions, q.shape[1]), q.dtype)

        def turned(x):
            heads = x.shape[1]
            return x * cos[:, :heads, None] + self.rotate_half(x) * sin[:, :heads, None]

        return turned(q), turned(k)

    return rotary


def on_positions(change):
    return lambda self, config, positions, dtype: StepwiseLlama.angles(
        self, config, change(config, positions, dtype), dtype
    )


def _angles(self, frequencies, positions, dtype):
    inverse, factor = frequencies
    half = positions[..., None].to(self.wide) * inverse
    both = torch.cat((half, half), dim=-1)
    return (both.cos() * factor).to(dtype), (both.sin() * factor).to(dtype)


def on_angles(change):
    """The same where dynamic and longrope still see the true length."""

    def angles(self, config, positions, dtype):
        frequencies = self.frequencies(config, int(positions.max()) + 1)
        return _angles(self, frequencies, change(config, positions, dtype), dtype)

    return angles


def _angles_of_the_call(self, config, positions, dtype):
    return _angles(self, self.frequencies(config, positions.shape[-1]), positions, dtype)


def _placed(name, why, seen, change):
    """A mistake in positions, made before angles are asked for, or where they are multiplied."""
    return mistake(name, why, seen, [{"angles": on_angles(change)}], angles=on_positions(change))


def edges_as_configured(self, rope, _base, H):
    return StepwiseLlama.yarn_edges(self, rope, rope["rope_theta"], H)


def _theta_fixed(base):
    """In every place; or in the frequencies alone, and yarn's edges are those of the configuration."""
    steps = {"theta": lambda _s, _c: base}
    return {"ways": [steps | {"yarn_edges": edges_as_configured}], **steps}


def _over_hidden_size(self, config, length):
    over = config["hidden_size"] // config["num_attention_heads"]
    other = copy(self)
    other.periods = lambda base, H: base ** (torch.arange(0, H, 2, dtype=self.wide) / over)
    return StepwiseLlama.frequencies(other, config, length)


def _unscaled_but_dynamic(self, config, length):
    if config["rope_parameters"]["rope_type"] == "dynamic":
        return StepwiseLlama.frequencies(self, config, length)
    return 1.0 / self.periods(self.theta(config), config["head_dim"]), 1.0


def _rounded_frequencies(self, config, positions, dtype):
    inverse, factor = self.frequencies(config, int(positions.max()) + 1)
    half = positions[..., None].to(self.wide) * inverse.to(dtype).to(self.wide)
    both = torch.cat((half, half), dim=-1)
    return (both.cos() * factor).to(dtype), (both.sin() * factor).to(dtype)


def _rounded_angles(self, config, positions, dtype):
    inverse, factor = self.frequencies(config, int(positions.max()) + 1)
    half = (positions[..., None].to(self.wide) * inverse).to(dtype)
    both = torch.cat((half, half), dim=-1)
    return both.cos() * factor, both.sin() * factor


def _bands(change):
    """llama3 with other limits of its bands."""
    return lambda self, inverse, rope: StepwiseLlama.llama3(self, inverse, rope | change(rope))


def _exchanged(rope):
    return {"low_freq_factor": rope["high_freq_factor"], "high_freq_factor": rope["low_freq_factor"]}


def _exchanged_in_a_ramp(_self, inverse, rope):
    """As it comes out where the three bands are one ramp with its ends cut off, which turns the other way round."""
    low = rope["high_freq_factor"]
    high = rope["low_freq_factor"]
    turns = rope["original_max_position_embeddings"] * inverse / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * inverse + (1 - kept) * inverse / rope["factor"]


def _llama3_steps(_self, inverse, rope):
    wavelength = 2 * math.pi / inverse
    limit = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    return torch.where(wavelength < limit, inverse, inverse / rope["factor"])


def _llama3_blend(_self, inverse, rope):
    factor = rope["factor"]
    low = rope["low_freq_factor"]
    high = rope["high_freq_factor"]
    trained = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / inverse
    kept = 1 - (trained / wavelength - low) / (high - low)
    between = (1 - kept) * inverse / factor + kept * inverse
    stretched = torch.where(wavelength > trained / low, inverse / factor, between)
    return torch.where(wavelength < trained / high, inverse, stretched)


def _llama3_without_2_pi(_self, inverse, rope):
    factor = rope["factor"]
    low = rope["low_freq_factor"]
    high = rope["high_freq_factor"]
    trained = rope["original_max_position_embeddings"]
    wavelength = 1 / inverse
    kept = (trained / wavelength - low) / (high - low)
    between = (1 - kept) * inverse / factor + kept * inverse
    stretched = torch.where(wavelength > trained / low, inverse / factor, between)
    return torch.where(wavelength < trained / high, inverse, stretched)


def _inverted_ramp(self, periods, rope, base):
    first, last = self.yarn_edges(rope, base, 2 * len(periods))
    ramp = ((torch.arange(len(periods), dtype=self.wide) - first) / (last - first)).clamp(0, 1)
    return 1.0 / (rope["factor"] * periods) * (1 - ramp) + 1.0 / periods * ramp, self.yarn_factor(rope)


def _unrounded_edges(_self, rope, base, H):
    trained = rope["original_max_position_embeddings"]
    first = H * math.log(trained / (64 * math.pi)) / (2 * math.log(base))
    last = H * math.log(trained / (2 * math.pi)) / (2 * math.log(base))
    return max(first, 0), min(last, H - 1)


def _longrope_one_list(which):
    def longrope(self, periods, rope, length):
        return StepwiseLlama.longrope(
            self, periods, rope | {"long_factor": rope[which], "short_factor": rope[which]}, length
        )

    return longrope


MISTAKES = [
    mistake("neighbour_pairs", "channel 2i is paired with 2i + 1; here, as in HF, i is paired with i + H/2",
            "transformers#25199, torchtitan#335, mlx-examples#65", rotate=_neighbour_pairs),
    mistake("neighbour_pairs_half_split_angles", "channel 2i is paired with 2i + 1, the angles are laid out in halves",
            rotate_half=_neighbours),
    mistake("mixed_layouts", "neighbouring channels are read as pairs, and written in halves",
            "stanford-cs336 assignment 2", rotate=_mixed_layouts),
    mistake("wrong_way_round", "pairs turn in the other direction: the sign of the sine is flipped",
            rotate_half=lambda _s, x: torch.cat((x.chunk(2, -1)[1], -x.chunk(2, -1)[0]), dim=-1)),
    mistake("against_each_other", "queries turn one way and keys the other: scores depend on the sum of two positions",
            rotary=_against_each_other("k"), ways=[{"rotary": _against_each_other("q")}]),
    mistake("no_sign", "neither half is negated: what multiplies the sine is only swapped",
            rotate_half=lambda _s, x: torch.cat(x.chunk(2, -1)[::-1], dim=-1)),
    mistake("cosine_and_sine_swapped", "the cosine stands where the sine belongs",
            rotate=lambda s, x, cos, sin: StepwiseLlama.rotate(s, x, sin, cos)),
    mistake("over_the_heads", "the angle grows from head to head, not from token to token: heads stand where positions belong",
            "xformers#841, open_lm#4, TPA#4, leo-optimizer#2", rotary=_turned_by_head(lambda _p, heads: torch.arange(heads)[None]),
            ways=[{"rotary": _turned_by_head(lambda p, heads: p[:, :1] + torch.arange(heads))},
                  {"rotary": _turned_by_head(lambda p, _heads: p)}]),
    mistake("theta_fixed_at_10000", "the base is 10000 whatever the configuration says",
            "llama2.c#356, litgpt#2217, SpecForge#265", **_theta_fixed(10000.0)),
    mistake("theta_fixed_at_500000", "the base is 500000, Llama 3's, whatever the configuration says",
            **_theta_fixed(500000.0)),
    mistake("exponent_without_2", "the exponent runs i/H instead of 2i/H",
            periods=lambda s, base, n: base ** (torch.arange(n // 2, dtype=s.wide) / n)),
    mistake("exponent_over_half", "the exponent is 2i over H/2 instead of H",
            periods=lambda s, base, n: base ** (torch.arange(0, n, 2, dtype=s.wide) / (n // 2))),
    mistake("exponent_from_1", "i counts from 1 instead of 0",
            periods=lambda s, base, n: base ** (torch.arange(2, n + 2, 2, dtype=s.wide) / n)),
    mistake("exponent_to_the_end", "the slowest pair gets 1/base: i runs evenly from 0 to 1 inclusive",
            periods=lambda s, base, n: base ** torch.linspace(0, 1, n // 2, dtype=s.wide)),
    mistake("frequencies_reversed", "the slowest pair comes first",
            periods=lambda s, base, n: StepwiseLlama.periods(s, base, n).flip(0)),
    mistake("head_dim_from_hidden_size", "the exponent's denominator is hidden_size / heads, not head_dim",
            "transformers#32502, torchtitan#3570, ollama#5817",
            frequencies=_over_hidden_size),
    mistake("scaling_ignored", "rope_scaling is ignored, of every type or of every one but dynamic", "felafax#59, LongLoRA#181",
            ways=[{"frequencies": _unscaled_but_dynamic}],
            frequencies=lambda s, c, _n: (1.0 / s.periods(s.theta(c), c["head_dim"]), 1.0)),
    mistake("llama3_ignored", "the llama3 scaling is ignored", "unsloth#6197, llama.cpp#8650",
            llama3=lambda _s, inverse, _rope: inverse),
    mistake("llama3_factor_32", "the llama3 factor is 32, Llama 3.2's, whatever the configuration says",
            "TransformerLens#910", llama3=_bands(lambda _rope: {"factor": 32.0})),
    mistake("llama3_everywhere", "all frequencies are divided by the llama3 factor, short wavelengths too",
            llama3=lambda _s, inverse, rope: inverse / rope["factor"]),
    mistake("llama3_low_and_high_swapped", "low_freq_factor and high_freq_factor are exchanged", llama3=_bands(_exchanged),
            ways=[{"llama3": _exchanged_in_a_ramp}]),
    mistake("llama3_without_blend", "frequencies between the bands are divided, not blended", llama3=_llama3_steps),
    mistake("llama3_blend_inverted", "between the bands the weights of the blend are exchanged", llama3=_llama3_blend),
    mistake("llama3_without_2_pi", "wavelengths are taken as 1/θ instead of 2π/θ", llama3=_llama3_without_2_pi),
    mistake("llama3_length_8192", "the original length is 8192 whatever the configuration says",
            llama3=_bands(lambda _rope: {"original_max_position_embeddings": 8192})),
    mistake("linear_multiplies", "linear scaling multiplies by the factor instead of dividing", "vllm#1436",
            linear_scaling=lambda _s, inverse, factor: inverse * factor),
    mistake("linear_ignored", "linear scaling is ignored", "LightLLM#672, text-generation-inference#2223",
            linear_scaling=lambda _s, inverse, _factor: inverse),
    mistake("linear_on_theta", "the base is divided by the linear factor, not the frequencies", "optimum-neuron#439",
            frequencies=lambda s, c, n: (1.0 / s.periods(s.theta(c) / c["rope_parameters"]["factor"], c["head_dim"]), 1.0)
            if c["rope_parameters"]["rope_type"] == "linear" else StepwiseLlama.frequencies(s, c, n)),
    mistake("dynamic_ignored", "dynamic scaling is ignored",
            dynamic_base=lambda _s, base, *_: base),
    mistake("dynamic_without_exponent", "the base grows with the stretch itself, without the power H / (H - 2)",
            dynamic_base=lambda _s, base, factor, length, trained, _H: base * (
                factor * torch.tensor(float(max(length, trained))) / trained - (factor - 1))),
    mistake("dynamic_without_minus", "the stretch lacks its - (factor - 1)",
            dynamic_base=lambda _s, base, factor, length, trained, H: base * (
                factor * torch.tensor(float(max(length, trained))) / trained) ** (H / (H - 2))),
    mistake("length_of_the_call", "dynamic and longrope look at how many tokens a call has, not at the position that is reached",
            angles=_angles_of_the_call),
    mistake("yarn_not_sharpened", "yarn's attention factor is missing", "sglang#33558, exllamav3#259",
            yarn_factor=lambda _s, _rope: 1.0),
    mistake("yarn_sharpened_twice", "yarn's attention factor is applied twice", "sglang#33558",
            yarn_factor=lambda s, rope: StepwiseLlama.yarn_factor(s, rope) ** 2),
    mistake("yarn_ramp_inverted", "yarn interpolates the fast pairs and keeps the slow ones", "litgpt model.py",
            yarn=_inverted_ramp),
    mistake("yarn_edges_not_rounded", "the ends of yarn's ramp are not rounded outwards", yarn_edges=_unrounded_edges),
    mistake("yarn_as_linear", "yarn divides every frequency by the factor",
            yarn=lambda s, periods, rope, _base: (1.0 / (rope["factor"] * periods), s.yarn_factor(rope))),
    mistake("longrope_always_short", "longrope uses its short factors at every length",
            longrope=_longrope_one_list("short_factor")),
    mistake("longrope_always_long", "longrope uses its long factors at every length",
            longrope=_longrope_one_list("long_factor")),
    mistake("longrope_not_sharpened", "longrope's attention factor is missing",
            longrope=lambda s, periods, rope, n: (StepwiseLlama.longrope(s, periods, rope, n)[0], 1.0)),
    mistake("longrope_multiplies", "longrope multiplies frequencies by its factors instead of dividing",
            longrope=lambda s, periods, rope, n: (
                1.0 / (StepwiseLlama.longrope(s, periods, rope, n)[0] * periods**2), StepwiseLlama.longrope(s, periods, rope, n)[1])),
    mistake("frequencies_in_low_precision", "inverse frequencies are rounded to the dtype of the model",
            "transformers#25681, gpt-neox#1003, sglang-jax#1473", angles=_rounded_frequencies),
    _placed("positions_in_low_precision", "positions are rounded to the dtype of the model: 257 becomes 256 in bfloat16",
            "transformers#29285", lambda _c, p, dtype: p.to(dtype)),
    mistake("angles_in_low_precision", "angles are rounded to the dtype of the model before cosine and sine",
            "transformers#25681", angles=_rounded_angles),
    mistake("key_one_behind", "the key stands one position before the query of the same token",
            "mobius#365, executorch#2010", rotary=_at(0, -1)),
    mistake("query_one_ahead", "the query stands one position after the key of the same token", rotary=_at(1, 0)),
    mistake("positions_from_1", "positions count from 1 instead of 0", rotary=_at(1, 1),
            ways=[{"angles": on_angles(lambda _c, p, _d: p + 1)}]),
    mistake("only_queries", "queries are turned, keys are not", rotary=_only("q")),
    mistake("only_keys", "keys are turned, queries are not", rotary=_only("k")),
    mistake("nothing_is_turned", "no rotary embedding at all", rotary=lambda _s, _h, q, k, _p: (q, k)),
    mistake("half_the_channels", "only half of the channels are turned (a partial_rotary_factor of 0.5)",
            rotate=lambda s, x, cos, sin: torch.cat((StepwiseLlama.rotate(s, x, cos, sin)[..., : x.shape[-1] // 2],
                                                   x[..., x.shape[-1] // 2 :]), dim=-1)),
    _placed("table_wraps", "positions wrap around at max_position_embeddings, the length of a table",
            "gLLM#269", lambda c, p, _d: p % c["max_position_embeddings"]),
    _placed("table_ends", "positions past max_position_embeddings all get the last angle", "own",
            lambda c, p, _d: p.clamp(max=c["max_position_embeddings"] - 1)),
    _placed("first_row_for_all", "all rows of a batch get the positions of the first", "labml#249",
            lambda _c, p, _d: p[:1].expand_as(p)),
    _placed("positions_ignored", "the positions given are ignored and counted from 0", "own",
            lambda _c, p, _d: torch.arange(p.shape[1]).expand_as(p)),
]  # fmt: skip
