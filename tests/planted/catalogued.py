"""Every mistake of the catalogue that a person could make in src/llama_scratch, at every place where it could be made."""

from __future__ import annotations

from tests.planted.plant import Plant as P  # noqa: N817  one letter, of a table

NORM = "model/rms_norm.py"
ROTARY = "model/rotary.py"
ATTENTION = "model/attention.py"
SWIGLU = "model/swiglu.py"
BLOCK = "model/block.py"
CACHE = "model/kv_cache.py"
LLAMA = "model/llama.py"
LOSS = "model/loss.py"
SAMPLING = "generate/sampling.py"
LOOP = "generate/loop.py"

WIDE = "x32 = x.float()"
SQUARES = "x32.pow(2).mean(-1, keepdim=True)"
ADDED = "mean_square + self.eps"
NORMED = "self.weight * (x32 * torch.rsqrt(mean_square + self.eps)).to(x.dtype)"
FIRST_NORM = "self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)"
SECOND_NORM = "self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)"
LAST_NORM = "self.norm = RMSNorm(D, config.rms_norm_eps)"

RMS_NORM = [
    *(P("rms_norm", f"eps_fixed_at_{eps}", NORM, "self.eps = eps", f"self.eps = {eps}") for eps in ("1e-6", "1e-5")),
    *(P("rms_norm", f"eps_fixed_at_{eps}", NORM, ADDED, f"mean_square + {eps}") for eps in ("1e-6", "1e-5")),
    *(P("rms_norm", f"eps_fixed_at_{eps}", file, norm, norm.replace("config.rms_norm_eps", eps))
      for eps in ("1e-6", "1e-5") for file, norm in ((BLOCK, FIRST_NORM), (BLOCK, SECOND_NORM), (LLAMA, LAST_NORM))),
    P("rms_norm", "eps_outside_the_root", NORM, NORMED, "self.weight * (x32 / (mean_square.sqrt() + self.eps)).to(x.dtype)"),
    P("rms_norm", "eps_missing", NORM, ADDED, "mean_square"),
    P("rms_norm", "eps_missing", NORM, "self.eps = eps", "self.eps = 0.0"),
    P("rms_norm", "eps_squared", NORM, ADDED, "mean_square + self.eps**2"),
    P("rms_norm", "eps_as_a_floor", NORM, ADDED, "mean_square.clamp(min=self.eps)"),
    P("rms_norm", "sum_instead_of_mean", NORM, SQUARES, "x32.pow(2).sum(-1, keepdim=True)"),
    P("rms_norm", "divides_by_one_less", NORM, SQUARES, "x32.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1)"),
    P("rms_norm", "mean_is_subtracted", NORM, WIDE, "x32 = x.float() - x.float().mean(-1, keepdim=True)"),
    P("rms_norm", "variance_instead_of_mean_square", NORM, SQUARES, "x32.var(-1, keepdim=True, correction=0)"),
    P("rms_norm", "absolute_values", NORM, NORMED,
      "self.weight * (x32 / (x32.abs().mean(-1, keepdim=True) + self.eps)).to(x.dtype)"),
    P("rms_norm", "no_root", NORM, NORMED, "self.weight * (x32 / (mean_square + self.eps)).to(x.dtype)"),
    P("rms_norm", "unit_length", NORM, NORMED, "self.weight * (x32 / (x32.norm(dim=-1, keepdim=True) + self.eps)).to(x.dtype)"),
    P("rms_norm", "unit_length", NORM, NORMED,
      "self.weight * torch.nn.functional.normalize(x32, dim=-1, eps=self.eps).to(x.dtype)"),
    P("rms_norm", "over_the_positions", NORM, SQUARES, "x32.pow(2).mean(-2, keepdim=True)"),
    P("rms_norm", "over_rows_and_channels", NORM, SQUARES, "x32.pow(2).mean((-2, -1), keepdim=True)"),
    P("rms_norm", "low_precision", NORM, WIDE, "x32 = x"),
    P("rms_norm", "gain_ignored", NORM, "self.weight * (", "("),
    P("rms_norm", "one_plus_gain", NORM, "self.weight * (", "(1 + self.weight) * ("),
    P("rms_norm", "gain_before_the_cast", NORM, NORMED,
      "(self.weight.float() * (x32 * torch.rsqrt(mean_square + self.eps))).to(x.dtype)"),
    P("rms_norm", "gain_before_the_norm", NORM, f"{WIDE}\n        mean_square = {SQUARES}\n        return self.weight * (",
      f"x32 = (self.weight * x).float()\n        mean_square = {SQUARES}\n        return ("),
    P("rms_norm", "gain_twice", NORM, "self.weight * (", "self.weight * self.weight * ("),
    P("rms_norm", "statistics_detached", NORM, "torch.rsqrt(mean_square + self.eps)", "torch.rsqrt(mean_square.detach() + self.eps)"),
    P("rms_norm", "statistics_detached", NORM, SQUARES, "x32.detach().pow(2).mean(-1, keepdim=True)"),
]  # fmt: skip

PERIODS = "periods = base ** (channels / H)"
EVEN = "torch.arange(0, H, 2,"
BASE = 'base: Any = rope["rope_theta"]'
TURN = "    return x * cos + torch.cat((-second, first), dim=-1) * sin"
HALVES = f"    first, second = x.chunk(2, dim=-1)\n{TURN}"
COS_SIN = "cos, sin = rotation[:, :, None]"
STACKED = "torch.stack((both.cos() * factor, both.sin() * factor))"
POSITIONS = "half = positions[..., None].float()"
LLAMA3 = "_llama3(1.0 / periods, rope), 1.0"
LLAMA3_RETURNS = "return torch.where(wavelength < original / high, theta, stretched)"
BLEND = "blended = (1 - blend) * theta / factor + blend * theta"
LINEAR = 'return 1.0 / periods / rope["factor"], 1.0'
STRETCH = "base = base * stretch ** (H / (H - 2))"
YARN = '1.0 / (rope["factor"] * periods) * (1 - keep) + 1.0 / periods * keep, sharpening'
LONG = '"long_factor" if length > original else "short_factor"'
THEIR_ANGLES = "rotation = angles(self.config, positions, x.dtype)"
Q_TURNED = "        q = rotate(q, rotation)\n"
K_TURNED = "        k = rotate(k, rotation)\n"

ROTARY_EMBEDDING = [
    P("rotary", "neighbour_pairs", ROTARY, HALVES,
      "    cos, sin = (y[..., : y.shape[-1] // 2].repeat_interleave(2, -1) for y in (cos, sin))\n"
      "    swapped = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)\n    return x * cos + swapped * sin"),
    P("rotary", "neighbour_pairs", ROTARY, HALVES,
      "    half = x.shape[-1] // 2\n    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())\n"
      "    turned = pairs * torch.complex(cos[..., :half].float(), sin[..., :half].float())\n"
      "    return torch.view_as_real(turned).flatten(-2).to(x.dtype)"),
    P("rotary", "neighbour_pairs_half_split_angles", ROTARY, "torch.cat((-second, first), dim=-1)",
      "torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)"),
    P("rotary", "mixed_layouts", ROTARY, HALVES,
      "    half = x.shape[-1] // 2\n    cos, sin = cos[..., :half], sin[..., :half]\n    first, second = x[..., ::2], x[..., 1::2]\n"
      "    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)"),
    P("rotary", "wrong_way_round", ROTARY, "torch.cat((-second, first), dim=-1)", "torch.cat((second, -first), dim=-1)"),
    P("rotary", "wrong_way_round", ROTARY, "x * cos + torch.cat", "x * cos - torch.cat"),
    P("rotary", "wrong_way_round", ROTARY, "both.sin() * factor", "-both.sin() * factor"),
    P("rotary", "no_sign", ROTARY, "torch.cat((-second, first), dim=-1)", "torch.cat((second, first), dim=-1)"),
    P("rotary", "cosine_and_sine_swapped", ROTARY, COS_SIN, "sin, cos = rotation[:, :, None]"),
    P("rotary", "cosine_and_sine_swapped", ROTARY, STACKED, "torch.stack((both.sin() * factor, both.cos() * factor))"),
    P("rotary", "over_the_heads", ROTARY, COS_SIN, "cos, sin = rotation[:, :, : x.shape[1], None]"),
    P("rotary", "theta_fixed_at_10000", ROTARY, BASE, "base: Any = 10000.0"),
    P("rotary", "theta_fixed_at_10000", "model/config_rules.py", '"rope_type": older or "default"} | rope',
      '"rope_type": older or "default"} | rope | {"rope_theta": 10000.0}'),
    P("rotary", "theta_fixed_at_500000", ROTARY, BASE, "base: Any = 500000.0"),
    P("rotary", "exponent_without_2", ROTARY, EVEN, "torch.arange(0, H // 2, 1,"),
    P("rotary", "exponent_without_2", ROTARY, PERIODS, "periods = base ** (channels / (2 * H))"),
    P("rotary", "exponent_over_half", ROTARY, PERIODS, "periods = base ** (channels / (H // 2))"),
    P("rotary", "exponent_from_1", ROTARY, EVEN, "torch.arange(2, H + 2, 2,"),
    P("rotary", "exponent_to_the_end", ROTARY, PERIODS, "periods = base ** torch.linspace(0, 1, H // 2)"),
    P("rotary", "frequencies_reversed", ROTARY, PERIODS, "periods = (base ** (channels / H)).flip(0)"),
    P("rotary", "frequencies_reversed", ROTARY, EVEN, "torch.arange(H - 2, -2, -2,"),
    P("rotary", "head_dim_from_hidden_size", ROTARY, PERIODS,
      "periods = base ** (channels / (config.hidden_size // config.num_attention_heads))"),
    P("rotary", "scaling_ignored", ROTARY, 'match rope["rope_type"]:', 'match "default":'),
    P("rotary", "llama3_ignored", ROTARY, LLAMA3, "1.0 / periods, 1.0"),
    P("rotary", "llama3_ignored", ROTARY, 'case "llama3":', 'case "llama-3":'),
    P("rotary", "llama3_factor_32", ROTARY, 'factor, low, high = rope["factor"],', "factor, low, high = 32.0,"),
    P("rotary", "llama3_everywhere", ROTARY, LLAMA3_RETURNS, "return theta / factor"),
    P("rotary", "llama3_everywhere", ROTARY, LLAMA3, '1.0 / periods / rope["factor"], 1.0'),
    P("rotary", "llama3_low_and_high_swapped", ROTARY, 'rope["low_freq_factor"], rope["high_freq_factor"]',
      'rope["high_freq_factor"], rope["low_freq_factor"]'),
    P("rotary", "llama3_without_blend", ROTARY, "stretched = torch.where(wavelength > original / low, theta / factor, blended)",
      "stretched = theta / factor"),
    P("rotary", "llama3_without_blend", ROTARY, BLEND, "blended = theta / factor"),
    P("rotary", "llama3_blend_inverted", ROTARY, BLEND, "blended = blend * theta / factor + (1 - blend) * theta"),
    P("rotary", "llama3_blend_inverted", ROTARY, "blend = (original / wavelength - low) / (high - low)",
      "blend = (high - original / wavelength) / (high - low)"),
    P("rotary", "llama3_without_2_pi", ROTARY, "wavelength = 2 * math.pi / theta", "wavelength = 1 / theta"),
    P("rotary", "llama3_length_8192", ROTARY, '= rope["original_max_position_embeddings"]\n    wavelength', "= 8192\n    wavelength"),
    P("rotary", "linear_multiplies", ROTARY, LINEAR, 'return 1.0 / periods * rope["factor"], 1.0'),
    P("rotary", "linear_ignored", ROTARY, LINEAR, "return 1.0 / periods, 1.0"),
    P("rotary", "linear_ignored", ROTARY, 'case "linear":', 'case "Linear":'),
    P("rotary", "linear_on_theta", ROTARY, LINEAR, 'return 1.0 / (base / rope["factor"]) ** (channels / H), 1.0'),
    P("rotary", "dynamic_ignored", ROTARY, 'if rope["rope_type"] == "dynamic":', 'if rope["rope_type"] == "ntk":'),
    P("rotary", "dynamic_ignored", ROTARY, "if length > longest:", "if length > longest * length:"),
    P("rotary", "dynamic_without_exponent", ROTARY, STRETCH, "base = base * stretch"),
    P("rotary", "dynamic_without_minus", ROTARY, ' - (rope["factor"] - 1)', ""),
    P("rotary", "yarn_not_sharpened", ROTARY, YARN, YARN.replace("sharpening", "1.0")),
    P("rotary", "yarn_not_sharpened", ROTARY, 'if rope["factor"] <= 1 else', 'if rope["factor"] > 1 else'),
    P("rotary", "yarn_sharpened_twice", ROTARY, YARN, YARN.replace("sharpening", "sharpening**2")),
    P("rotary", "yarn_ramp_inverted", ROTARY, "keep = 1 - ((pairs - low)", "keep = ((pairs - low)"),
    P("rotary", "yarn_ramp_inverted", ROTARY, YARN,
      '1.0 / (rope["factor"] * periods) * keep + 1.0 / periods * (1 - keep), sharpening'),
    P("rotary", "yarn_edges_not_rounded", ROTARY, 'if rope.get("truncate", True):', 'if rope.get("truncate"):'),
    P("rotary", "yarn_as_linear", ROTARY, YARN, '1.0 / (rope["factor"] * periods), sharpening'),
    P("rotary", "longrope_always_short", ROTARY, LONG, '"short_factor"'),
    P("rotary", "longrope_always_short", ROTARY, 'if config.rope_parameters["rope_type"] in LENGTH_MATTERS:',
      'if config.rope_parameters["rope_type"] == "dynamic":'),
    P("rotary", "longrope_always_long", ROTARY, LONG, '"long_factor"'),
    P("rotary", "longrope_not_sharpened", ROTARY, "return 1.0 / stretched, sharpening", "return 1.0 / stretched, 1.0"),
    P("rotary", "longrope_multiplies", ROTARY, 'torch.tensor(factors, dtype=torch.float32, device="cpu") * periods',
      'periods / torch.tensor(factors, dtype=torch.float32, device="cpu")'),
    P("rotary", "frequencies_in_low_precision", ROTARY, "theta.to(positions.device)", "theta.to(dtype).float()"),
    P("rotary", "positions_in_low_precision", ROTARY, POSITIONS, "half = positions[..., None].to(dtype).float()"),
    P("rotary", "angles_in_low_precision", ROTARY, "both = half.repeat(1, 1, 2)", "both = half.repeat(1, 1, 2).to(dtype)"),
    P("rotary", "positions_from_1", ROTARY, POSITIONS, "half = (positions + 1)[..., None].float()"),
    P("rotary", "half_the_channels", ROTARY, TURN,
      "    half = x.shape[-1] // 2\n"
      "    turned = x * cos + torch.cat((-second, first), dim=-1) * sin\n"
      "    return torch.cat((turned[..., :half], x[..., half:]), dim=-1)"),
    *(P("rotary", name, ROTARY, POSITIONS, f"half = {positions}[..., None].float()") for name, positions in (
        ("table_wraps", "(positions % config.max_position_embeddings)"),
        ("table_ends", "positions.clamp(max=config.max_position_embeddings - 1)"),
        ("first_row_for_all", "positions[:1].expand_as(positions)"),
        ("positions_ignored", "torch.arange(positions.shape[1]).expand_as(positions)"))),
    *(P("llama", name, LLAMA, THEIR_ANGLES, f"rotation = angles(self.config, {positions}, x.dtype)") for name, positions in (
        ("table_wraps", "positions % self.config.max_position_embeddings"),
        ("table_ends", "positions.clamp(max=self.config.max_position_embeddings - 1)"),
        ("first_rows_positions", "positions[:1]"),
        ("positions_not_passed_on", "torch.arange(tokens.shape[1])[None]"),
        ("angles_in_low_precision|positions_in_low_precision", "positions.to(x.dtype).long()"))),
    P("attention", "only_queries", ATTENTION, K_TURNED, ""),
    P("attention", "only_keys", ATTENTION, Q_TURNED, ""),
    P("attention", "nothing_is_turned", ATTENTION, Q_TURNED + K_TURNED, ""),
    P("attention", "against_each_other", ATTENTION, K_TURNED, "        k = rotate(k, rotation * torch.tensor([1, -1])[:, None, None, None])\n"),
    P("attention", "against_each_other", ATTENTION, Q_TURNED, "        q = rotate(q, rotation * torch.tensor([1, -1])[:, None, None, None])\n"),
]  # fmt: skip

CAUSAL = "allowed = (columns <= columns[S - T :, None])[None, None]"
PADDED = "return allowed if attention_mask is None else allowed & attention_mask[:, None, None, :].bool()"
SHARED = "x[:, :, None].expand(-1, -1, R, -1, -1).flatten(1, 2)"
SCALED = "* q.shape[-1] ** -0.5"
LOWERED = "(~mask).to(q.dtype) * lowest"
SOFTMAX = "scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)"
SPLIT = "return x.unflatten(-1, (-1, H)).transpose(1, 2)"
MERGED = "y.transpose(1, 2).flatten(2)"
ATTENDED = "y = attend(q, k, v, mask, self.dropout if self.training else 0.0, self.sdpa)"
Q = "        q = split_heads(self.q_proj(x), self.head_dim)\n"
K = "        k = split_heads(self.k_proj(x), self.head_dim)\n"
V = "        v = split_heads(self.v_proj(x), self.head_dim)\n"
OUT = "return self.o_proj(y.transpose(1, 2).flatten(2))"


def _unbiased(line: str) -> str:
    """The line with the projection's weight alone."""
    return line.replace("_proj(x)", "_proj.weight)").replace("self.", "F.linear(x, self.", 1)


ATTENTION_LAYER = [
    P("attention", "heads_tiled", ATTENTION, SHARED, "x.repeat(1, R, 1, 1)"),
    P("attention", "heads_tiled", ATTENTION, SHARED, "x[:, None].expand(-1, R, -1, -1, -1).flatten(1, 2)"),
    P("attention", "groups_reversed", ATTENTION, SHARED, "x.flip(1).repeat_interleave(R, 1)"),
    P("attention", "one_group_for_all", ATTENTION, SHARED, "x[:, :1].expand(-1, x.shape[1] * R, -1, -1)"),
    P("attention", "scale_missing", ATTENTION, SCALED, ""),
    P("attention", "scale_from_hidden_over_heads", ATTENTION, ATTENDED,
      "q = q * (self.head_dim / (x.shape[-1] / q.shape[1])) ** 0.5\n        " + ATTENDED),
    P("attention", "scale_from_hidden_size", ATTENTION, ATTENDED, "q = q * (self.head_dim / x.shape[-1]) ** 0.5\n        " + ATTENDED),
    P("attention", "scaled_twice", ATTENTION, SCALED, "/ q.shape[-1]"),
    P("attention", "scaled_twice", ATTENTION, ATTENDED, "q = q * self.head_dim**-0.5\n        " + ATTENDED),
    P("attention", "sees_one_ahead", ATTENTION, CAUSAL, CAUSAL.replace("None])[", "None] + 1)[")),
    P("attention", "does_not_see_itself", ATTENTION, CAUSAL, CAUSAL.replace("<=", "<")),
    P("attention", "not_causal", ATTENTION, CAUSAL, "allowed = torch.ones(1, 1, T, S, dtype=torch.bool)"),
    P("attention", "anti_causal", ATTENTION, CAUSAL, CAUSAL.replace("<=", ">=")),
    P("attention", "aligned_top_left", ATTENTION, CAUSAL, CAUSAL.replace("S - T :", ":T")),
    P("attention", "aligned_top_left", ATTENTION, CAUSAL, "allowed = torch.ones(T, S, dtype=torch.bool).tril()[None, None]"),
    P("attention", "no_mask_over_a_cache", ATTENTION, ATTENDED,
      "mask = mask if cache is None or cache.filled == 0 else torch.ones_like(mask)\n        " + ATTENDED),
    P("attention", "not_causal_over_a_cache", ATTENTION, CAUSAL, CAUSAL + "\n    if T < S:\n        allowed = torch.ones_like(allowed)"),
    P("attention", "sliding_window", ATTENTION, CAUSAL, "allowed = ((columns <= columns[S - T :, None]) & (columns > columns[S - T :, None] - 16))[None, None]"),
    P("attention", "padding_ignored", ATTENTION, PADDED, "return allowed"),
    P("attention", "padding_inverted", ATTENTION, PADDED, PADDED.replace("attention_mask[", "~attention_mask[")),
    P("attention", "padding_inverted", ATTENTION, PADDED, PADDED.replace("attention_mask[:, None, None, :].bool()", "(attention_mask[:, None, None, :] == 0)")),
    P("attention", "padding_of_the_first_row", ATTENTION, PADDED, PADDED.replace("[:, None,", "[:1, None,")),
    P("attention", "padding_reversed", ATTENTION, PADDED, PADDED.replace("attention_mask[:", "attention_mask.flip(1)[:")),
    P("attention", "mask_added_as_ones", ATTENTION, LOWERED, "mask.to(q.dtype)"),
    P("attention", "mask_too_weak", ATTENTION, "lowest = torch.finfo(q.dtype).min", "lowest = -8.0"),
    P("attention", "softmax_over_queries", ATTENTION, SOFTMAX, SOFTMAX.replace("-1", "-2")),
    P("attention", "softmax_with_a_sink", ATTENTION, SOFTMAX,
      "F.pad(scores, (0, 1)).softmax(dim=-1, dtype=torch.float32)[..., :-1].to(q.dtype)"),
    P("attention", "no_softmax", ATTENTION, SOFTMAX, "F.relu(scores) / scores.shape[-1]"),
    P("attention", "dropout_in_eval", ATTENTION, "self.dropout if self.training else 0.0", "0.1"),
    P("attention", "keys_and_values_swapped", ATTENTION, K + V, K.replace("k_proj", "v_proj") + V.replace("v_proj", "k_proj")),
    P("attention", "queries_normalised", ATTENTION, Q_TURNED + K_TURNED,
      "        q, k = (rotate(F.rms_norm(y, y.shape[-1:], eps=1e-6), rotation) for y in (q, k))\n"),
    P("attention", "heads_not_transposed_back", ATTENTION, MERGED, "y.reshape(y.shape[0], y.shape[2], -1)"),
    P("attention", "heads_not_transposed", ATTENTION, SPLIT, "return x.reshape(x.shape[0], -1, x.shape[1], H)"),
    P("attention", "heads_merged_channel_first", ATTENTION, MERGED, "y.permute(0, 2, 3, 1).flatten(2)"),
    P("attention", "o_bias_dropped", ATTENTION, OUT, "return F.linear(y.transpose(1, 2).flatten(2), self.o_proj.weight)"),
    P("attention", "qkv_biases_dropped", ATTENTION, Q + K + V, _unbiased(Q) + _unbiased(K) + _unbiased(V)),
    P("attention", "q_bias_dropped", ATTENTION, Q, _unbiased(Q)),
    P("attention", "v_bias_dropped", ATTENTION, V, _unbiased(V)),
    P("attention", "values_are_keys", ATTENTION, V, V.replace("v_proj", "k_proj")),
    P("attention", "values_turned", ATTENTION, K_TURNED, K_TURNED + "        v = rotate(v, rotation)\n"),
]  # fmt: skip

GATED = "self.activation(self.gate_proj(x)) * self.up_proj(x)"
DOWN = f"self.down_proj({GATED})"
ACTIVATED = "self.activation = ACTIVATION[config.hidden_act]"
GELUS = '"gelu": F.gelu, "relu": F.relu}\nACTIVATION["gelu_pytorch_tanh"] = partial(F.gelu, approximate="tanh")'
FUNCTIONS = {
    "gelu_always": "torch.nn.functional.gelu",
    "gelu_tanh_always": 'partial(torch.nn.functional.gelu, approximate="tanh")',
    "relu_always": "torch.nn.functional.relu",
    "silu_always": "torch.nn.functional.silu",
    "sigmoid_instead_of_silu": "torch.sigmoid",
    "quick_gelu": "lambda z: z * (1.702 * z).sigmoid()",
    "tanh_instead": "torch.tanh",
    "squared_relu": "lambda z: z.relu() ** 2",
    "no_activation": "lambda z: z",
}

FEED_FORWARD = [
    *(P("swiglu", name, SWIGLU, ACTIVATED, f"import torch\n        self.activation = {function}") for name, function in FUNCTIONS.items()),
    P("swiglu", "sigmoid_instead_of_silu", SWIGLU, '"silu": F.silu', '"silu": F.sigmoid'),
    P("swiglu", "exact_and_approximate_exchanged", SWIGLU, GELUS,
      '"gelu": partial(F.gelu, approximate="tanh"), "relu": F.relu}\nACTIVATION["gelu_pytorch_tanh"] = F.gelu'),
    P("swiglu", "gate_and_up_swapped", SWIGLU, GATED, "self.activation(self.up_proj(x)) * self.gate_proj(x)"),
    P("swiglu", "activated_after_the_product", SWIGLU, GATED, "self.activation(self.gate_proj(x) * self.up_proj(x))"),
    P("swiglu", "both_activated", SWIGLU, GATED, "self.activation(self.gate_proj(x)) * self.activation(self.up_proj(x))"),
    P("swiglu", "added_instead_of_multiplied", SWIGLU, GATED, "self.activation(self.gate_proj(x)) + self.up_proj(x)"),
    P("swiglu", "gate_missing", SWIGLU, GATED, "self.activation(self.up_proj(x))"),
    P("swiglu", "up_missing", SWIGLU, GATED, "self.activation(self.gate_proj(x))"),
    P("swiglu", "rounded_once", SWIGLU, GATED, "(self.activation(self.gate_proj(x).float()) * self.up_proj(x).float()).to(x.dtype)"),
    P("swiglu", "down_bias_dropped", SWIGLU, DOWN, f"{GATED} @ self.down_proj.weight.T"),
    P("swiglu", "gate_bias_dropped", SWIGLU, "self.gate_proj(x)", "x @ self.gate_proj.weight.T".join("()")),
    P("swiglu", "up_bias_dropped", SWIGLU, "self.up_proj(x)", "x @ self.up_proj.weight.T".join("()")),
    P("swiglu", "biases_dropped", SWIGLU, DOWN,
      "(self.activation(x @ self.gate_proj.weight.T) * (x @ self.up_proj.weight.T)) @ self.down_proj.weight.T"),
    P("swiglu", "up_is_gate", SWIGLU, GATED, "self.activation(self.gate_proj(x)) * self.gate_proj(x)"),
    P("swiglu", "gate_is_up", SWIGLU, GATED, "self.activation(self.up_proj(x)) * self.up_proj(x)"),
]  # fmt: skip

ATTENDS = "self.self_attn(self.input_layernorm(x), rotation, mask, cache)"
FEEDS = "self.mlp(self.post_attention_layernorm(h))"
H_IS = f"        h = x + {ATTENDS}\n"
BODY = H_IS + f"        return h + {FEEDS}"
COMPOSED = {
    "post_norm": "h = self.input_layernorm(x + self.self_attn(x, rotation, mask, cache))\n"
    "        return self.post_attention_layernorm(h + self.mlp(h))",
    "sandwich": "h = x + self.input_layernorm(self.self_attn(x, rotation, mask, cache))\n"
    "        return h + self.post_attention_layernorm(self.mlp(h))",
    "residual_from_the_normed": f"x = self.input_layernorm(x)\n        h = x + self.self_attn(x, rotation, mask, cache)\n        return h + {FEEDS}",
    "second_residual_from_the_normed": f"h = self.post_attention_layernorm(x + {ATTENDS})\n        return h + self.mlp(h)",
    "norms_swapped": "h = x + self.self_attn(self.post_attention_layernorm(x), rotation, mask, cache)\n"
    "        return h + self.mlp(self.input_layernorm(h))",
    "first_norm_twice": f"h = x + {ATTENDS}\n        return h + self.mlp(self.input_layernorm(h))",
    "second_norm_twice": f"h = x + self.self_attn(self.post_attention_layernorm(x), rotation, mask, cache)\n        return h + {FEEDS}",
    "first_norm_missing": f"h = x + self.self_attn(x, rotation, mask, cache)\n        return h + {FEEDS}",
    "second_norm_missing": f"h = x + {ATTENDS}\n        return h + self.mlp(h)",
    "parallel": f"return x + {ATTENDS} + self.mlp(self.post_attention_layernorm(x))",
    "mlp_first": "h = x + self.mlp(self.post_attention_layernorm(x))\n"
    "        return h + self.self_attn(self.input_layernorm(h), rotation, mask, cache)",
    "first_residual_missing": f"h = {ATTENDS}\n        return h + {FEEDS}",
    "second_residual_missing": f"h = x + {ATTENDS}\n        return {FEEDS}",
    "residual_halved": f"h = x + 0.5**0.5 * {ATTENDS}\n        return h + 0.5**0.5 * {FEEDS}",
    "residual_twice": f"h = x + {ATTENDS}\n        return x + h + {FEEDS}",
    "attention_missing": "return x + self.mlp(self.post_attention_layernorm(x))",
    "mlp_missing": f"return x + {ATTENDS}",
    "stream_in_float32": f"h = x.float() + {ATTENDS}.float()\n        return (h + {FEEDS.replace('(h)', '(h.to(x.dtype))')}.float()).to(x.dtype)",
}  # fmt: skip

WHOLE_BLOCK = [P("block", name, BLOCK, BODY, f"        {body}") for name, body in COMPOSED.items()]

KEYS_WRITTEN = "        self.keys[:, :, self.filled : S] = k.detach()\n"
VALUES_WRITTEN = "        self.values[:, :, self.filled : S] = v.detach()\n"
CROPPED = "        self.length = length\n"
RESET = '        """Forget everything: the next call starts a new sequence."""\n        self.length = 0'
KEYS_REORDERED = "        self.keys = self.keys[:, rows]\n"
VALUES_REORDERED = "        self.values = self.values[:, rows]\n"


def _both(change: str) -> str:
    """Both writes, of `change` with X for k or v."""
    return "".join(f"        self.{store}{change.replace('X', x)}\n" for store, x in (("keys", "k"), ("values", "v")))


KEY_VALUE_CACHE = [
    P("kv_cache", "kept_unturned", ATTENTION, K_TURNED + "        if cache is not None:\n            k, v = cache.append(k, v)\n",
      "        T = x.shape[1]\n        if cache is not None:\n            k, v = cache.append(k, v)\n"
      "        k = torch.cat((k[:, :, :-T], rotate(k[:, :, -T:], rotation)), dim=2)\n"),
    P("kv_cache", "counted_in_layer_0", LLAMA, "        if cache is not None:\n            cache.advance(tokens.shape[1])\n",
      "            if cache is not None and layer is self.layers[0]:\n                cache.advance(1)\n"
      "        if cache is not None:\n            cache.advance(tokens.shape[1] - 1)\n"),
    P("kv_cache", "advances_by_one", CACHE, "self.length += T", "self.length += 1"),
    P("kv_cache", "advances_by_one", LLAMA, "cache.advance(tokens.shape[1])", "cache.advance(1)"),
    P("kv_cache", "writes_one_early", CACHE, KEYS_WRITTEN + VALUES_WRITTEN,
      "        start = max(self.filled - 1, 0)\n" + _both("[:, :, start : start + T] = X.detach()")),
    P("kv_cache", "writes_at_0", CACHE, KEYS_WRITTEN + VALUES_WRITTEN, _both("[:, :, :T] = X.detach()")),
    P("kv_cache", "last_not_written", CACHE, KEYS_WRITTEN + VALUES_WRITTEN, _both("[:, :, self.filled : S - 1] = X[:, :, :-1].detach()")),
    P("kv_cache", "first_row_for_all", CACHE, KEYS_WRITTEN + VALUES_WRITTEN, _both("[:, :, self.filled : S] = X[:1].detach()")),
    P("kv_cache", "kept_in_bfloat16", CACHE, KEYS_WRITTEN + VALUES_WRITTEN, _both("[:, :, self.filled : S] = X.detach().bfloat16()")),
    P("kv_cache", "values_kept_as_keys", CACHE, VALUES_WRITTEN, VALUES_WRITTEN.replace("v.", "k.")),
    P("kv_cache", "one_buffer_for_all_layers", CACHE, "yield LayerCache(keys, values, self.length)", "yield LayerCache(self.keys[0], values, self.length)"),
    P("kv_cache", "one_buffer_for_all_layers", CACHE, "yield LayerCache(keys, values, self.length)", "yield LayerCache(keys, self.values[0], self.length)"),
    P("kv_cache", "past_forgotten", CACHE, "LayerCache(keys, values, self.length)",
      "LayerCache(torch.zeros_like(keys), torch.zeros_like(values), self.length)"),
    P("kv_cache", "values_forgotten", CACHE, "LayerCache(keys, values, self.length)",
      "LayerCache(keys, torch.zeros_like(values), self.length)"),
    P("kv_cache", "crop_keeps_one_more", CACHE, CROPPED, "        self.length = min(length + 1, self.length)\n"),
    P("kv_cache", "crop_keeps_one_less", CACHE, CROPPED, "        self.length = max(length - 1, 0)\n"),
    P("kv_cache", "crop_counts_from_the_end", CACHE, CROPPED, "        self.length -= length\n"),
    P("kv_cache", "crop_does_nothing", CACHE, CROPPED, ""),
    P("kv_cache", "crop_keeps_the_end", CACHE, CROPPED,
      "        for store in (self.keys, self.values):\n"
      "            store[..., :length, :] = store[..., self.length - length : self.length, :].clone()\n" + CROPPED),
    P("kv_cache", "reset_keeps_the_length", CACHE, RESET, RESET.replace("self.length = 0", "pass")),
    P("kv_cache", "reset_keeps_the_length", CACHE, RESET, RESET.replace("self.length = 0", "self.keys.zero_()\n        self.values.zero_()")),
    P("kv_cache", "reset_keeps_one", CACHE, RESET, RESET.replace("= 0", "= min(self.length, 1)")),
    P("kv_cache", "reorder_does_nothing", CACHE, KEYS_REORDERED + VALUES_REORDERED, "        self.keys[:, rows], self.values[:, rows]\n"),
    P("kv_cache", "reorder_of_keys_only", CACHE, VALUES_REORDERED, ""),
    P("kv_cache", "reorder_of_values_only", CACHE, KEYS_REORDERED, ""),
    P("kv_cache", "reorder_of_layer_0_only", CACHE, KEYS_REORDERED + VALUES_REORDERED,
      _both("[0] = self.Xs[0][rows]").replace("ks[", "keys[").replace("vs[", "values[")),
    P("kv_cache", "reorder_above_layer_0_only", CACHE, KEYS_REORDERED + VALUES_REORDERED,
      _both("[1:] = self.Xs[1:, rows]").replace("ks[", "keys[").replace("vs[", "values[")),
    P("kv_cache", "reorder_is_the_inverse", CACHE, KEYS_REORDERED + VALUES_REORDERED,
      "        rows = rows.argsort()\n" + KEYS_REORDERED + VALUES_REORDERED),
    P("kv_cache", "reorder_in_place", CACHE, KEYS_REORDERED + VALUES_REORDERED,
      "        for row, source in enumerate(rows.tolist()):\n            self.keys[:, row] = self.keys[:, source]\n"
      "            self.values[:, row] = self.values[:, source]\n"),
    P("kv_cache", "reorder_twice", CACHE, KEYS_REORDERED + VALUES_REORDERED, (KEYS_REORDERED + VALUES_REORDERED) * 2),
]  # fmt: skip

EMBEDDED = "x = self.embed_tokens(tokens)"
LOOPED = "for layer, layer_cache in zip(self.layers, layer_caches, strict=True):"
LAYER = "x = layer(x, rotation, mask, layer_cache)"
BUILT = "nn.ModuleList(Block(config, sdpa) for _ in range(config.num_hidden_layers))"
HEAD = "return self.lm_head(x[:, -1:] if last_only else x)"

WHOLE_MODEL = [
    P("llama", "final_norm_missing", LLAMA, "return self.norm(x)", "return x"),
    P("llama", "final_norm_of_a_layer", LLAMA, "return self.norm(x)", "return self.layers[-1].post_attention_layernorm(x)"),
    P("llama", "final_norm_without_gain", LLAMA, "return self.norm(x)",
      "return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.norm.eps)).to(x.dtype)"),
    P("llama", "final_norm_twice", LLAMA, "return self.norm(x)", "return self.norm(self.norm(x))"),
    P("llama", "embedding_as_head", LLAMA, HEAD, "return x @ self.model.embed_tokens.weight.T"),
    P("llama", "tied_by_copy", LLAMA, "if self.config.tie_word_embeddings:", "if False:"),
    P("llama", "embedding_scaled", LLAMA, EMBEDDED, EMBEDDED + " * self.config.hidden_size**0.5"),
    P("llama", "embedding_normed", LLAMA, EMBEDDED,
      EMBEDDED + "\n        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5).to(x.dtype)"),
    P("llama", "absolute_positions", LLAMA, EMBEDDED, EMBEDDED + """
        angle = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(0, x.shape[2], 2) / x.shape[2])
        x = x + torch.cat((angle.sin(), angle.cos()), dim=-1).to(x.dtype)"""),
    P("llama", "tokens_one_off", LLAMA, EMBEDDED, "x = self.embed_tokens((tokens - 1).clamp(min=0))"),
    P("llama", "embedding_detached", LLAMA, EMBEDDED, EMBEDDED + ".detach()"),
    P("llama", "layers_reversed", LLAMA, LOOPED, LOOPED.replace("self.layers,", "self.layers[::-1],")),
    P("llama", "two_layers_exchanged", LLAMA, LOOPED, LOOPED.replace("self.layers,", "[self.layers[1], self.layers[0], *self.layers[2:]],")),
    P("llama", "last_layer_skipped", LLAMA, LOOPED, LOOPED.replace("zip(self.layers, layer_caches, strict=True)", "[*zip(self.layers, layer_caches)][:-1]")),
    P("llama", "first_layer_skipped", LLAMA, LOOPED, LOOPED.replace("zip(self.layers, layer_caches, strict=True)", "[*zip(self.layers, layer_caches)][1:]")),
    P("llama", "first_layer_for_all", LLAMA, LAYER, LAYER.replace("layer(", "self.layers[0](", 1)),
    P("llama", "first_layer_for_all|last_layer_for_all", LLAMA, BUILT, "nn.ModuleList([Block(config, sdpa)] * config.num_hidden_layers)"),
    P("llama", "last_layer_twice", LLAMA, LOOPED, LOOPED.replace("zip(self.layers, layer_caches, strict=True)", "[*zip(self.layers, layer_caches), (self.layers[-1], [*layer_caches][-1])]")),
    P("llama", "logits_capped", LLAMA, HEAD, HEAD.replace("self.lm_head", "30 * torch.tanh(self.lm_head") + " / 30)"),
    P("llama", "logits_scaled", LLAMA, HEAD, HEAD + " / self.config.hidden_size**0.5"),
    P("llama", "logits_in_float32", LLAMA, HEAD, HEAD + ".float()"),
    P("llama", "logits_as_log_probabilities", LLAMA, HEAD, HEAD + ".log_softmax(-1)"),
    P("llama", "logits_one_late", LLAMA, HEAD, HEAD + ".roll(1, 1)"),
    P("llama", "mask_not_passed_on", LLAMA, "mask = causal_mask(T, S, attention_mask, tokens.device)", "mask = causal_mask(T, S, None, tokens.device)"),
    P("llama", "positions_not_passed_on", LLAMA, "if positions is None:", "if True:"),
]  # fmt: skip

TARGETS = "F.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()"
ROWS = "rows = logits.float().flatten(0, 1)"
ENTROPY = "F.cross_entropy(rows, targets, ignore_index=IGNORED, reduction=mode) / (count or 1)"
SUMMED = ENTROPY.replace("mode", '"sum"').replace("(count or 1)", "")

CROSS_ENTROPY = [
    P("loss", "labels_not_shifted", LOSS, TARGETS, "labels.flatten()"),
    P("loss", "labels_shifted_twice", LOSS, TARGETS, "F.pad(labels, (0, 2), value=IGNORED)[:, 2:].flatten()"),
    P("loss", "labels_shifted_back", LOSS, TARGETS, "F.pad(labels, (1, 0), value=IGNORED)[:, :-1].flatten()"),
    P("loss", "labels_wrap_around", LOSS, TARGETS, "labels.roll(-1, 1).flatten()"),
    P("loss", "ignored_as_token_0", LOSS, TARGETS, TARGETS + ".clamp(min=0)"),
    P("loss", "mean_over_all", LOSS, ENTROPY, SUMMED + "targets.numel()"),
    P("loss", "mean_of_row_means", LOSS, ENTROPY,
      "(F.cross_entropy(rows, targets, ignore_index=IGNORED, reduction='none').view_as(labels).sum(1)\n"
      "        / (targets.view_as(labels) != IGNORED).sum(1)).mean()"),
    P("loss", "counted_before_the_shift", LOSS, ENTROPY, SUMMED + "(labels != IGNORED).sum()"),
    P("loss", "sum_instead_of_mean", LOSS, ENTROPY, SUMMED + "1"),
    P("loss", "in_bits", LOSS, ENTROPY, ENTROPY + " / 0.6931471805599453"),
    P("loss", "smoothed", LOSS, ENTROPY, ENTROPY.replace("reduction", "label_smoothing=0.1, reduction")),
    P("loss", "low_precision", LOSS, ROWS, ROWS.replace(".float()", "")),
    P("loss", "softmax_twice", LOSS, ROWS, ROWS + ".softmax(-1)"),
    P("loss", "first_row_only", LOSS, ENTROPY, ENTROPY.replace("(rows, targets", "(rows[: labels.shape[1]], targets[: labels.shape[1]]")),
]  # fmt: skip

TEMPERED = "    logits = temperature(logits, params.temperature)\n"
BY_K = "    if params.top_k is not None:\n        logits = top_k(logits, params.top_k)\n"
BY_P = "    if params.top_p is not None:\n        logits = top_p(logits, params.top_p)\n"
BY_M = "    if params.min_p is not None:\n        logits = min_p(logits, params.min_p)\n"
KNOBS = TEMPERED + BY_K + BY_P + BY_M
REMOVED = "removed = ascending.softmax(-1).cumsum(-1) <= 1 - p"
PENALISED = "torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)"
MINIMUM = "probabilities < fraction * probabilities.amax(-1, keepdim=True)"
DISTRIBUTION = "    return logits.softmax(-1)\n\n\ndef penalised"
SORTED = "    ascending, order = logits.sort(dim=-1)\n"

NEXT_TOKEN = [
    P("sampling", "temperature_multiplies", SAMPLING, "return logits / tau", "return logits * tau"),
    P("sampling", "temperature_ignored", SAMPLING, TEMPERED, ""),
    P("sampling", "temperature_last", SAMPLING, KNOBS, BY_K + BY_P + BY_M + TEMPERED),
    P("sampling", "top_p_before_top_k", SAMPLING, BY_K + BY_P, BY_P + BY_K),
    P("sampling", "min_p_first", SAMPLING, BY_K + BY_P + BY_M, BY_M + BY_K + BY_P),
    P("sampling", "top_p_drops_the_crossing_token", SAMPLING, REMOVED, "removed = ascending.softmax(-1).cumsum(-1) - ascending.softmax(-1) < 1 - p"),
    P("sampling", "top_p_keeps_one_more", SAMPLING, REMOVED, REMOVED.replace("<=", "<")),
    P("sampling", "top_p_not_scattered_back", SAMPLING, "removed.scatter(1, order, removed)", "removed"),
    P("sampling", "top_p_of_logits", SAMPLING, REMOVED, REMOVED.replace(".softmax(-1)", "")),
    P("sampling", "top_p_ignored", SAMPLING, BY_P, ""),
    P("sampling", "top_k_keeps_one_more", SAMPLING, "min(k, logits.shape[-1])", "min(k + 1, logits.shape[-1])"),
    P("sampling", "top_k_drops_ties", SAMPLING, "    return logits.masked_fill(logits < kth, -inf)",
      "    kept = logits.topk(min(k, logits.shape[-1])).indices\n"
      "    return torch.full_like(logits, -inf).scatter(1, kept, logits.gather(1, kept))"),
    P("sampling", "top_k_strict", SAMPLING, "logits < kth", "logits <= kth"),
    P("sampling", "top_k_strict", SAMPLING, "logits < kth", "(logits <= kth) & (logits < logits.amax(-1, keepdim=True))"),
    P("sampling", "top_k_50", SAMPLING, BY_K, "    logits = top_k(logits, params.top_k or 50)\n"),
    P("sampling", "min_p_absolute", SAMPLING, MINIMUM, "probabilities < fraction"),
    P("sampling", "min_p_strict", SAMPLING, MINIMUM, MINIMUM.replace("<", "<=")),
    P("sampling", "penalty_divides_negatives", SAMPLING, PENALISED, "torch.where(seen, logits / penalty, logits)"),
    P("sampling", "penalty_subtracts", SAMPLING, PENALISED, "torch.where(seen, logits - penalty, logits)"),
    P("sampling", "penalty_each_time", SAMPLING, f" > 0\n    return {PENALISED}",
      "\n    return torch.where(logits < 0, logits * penalty**seen, logits / penalty**seen)"),
    P("sampling", "penalty_on_the_rest", SAMPLING, "torch.where(seen, torch", "torch.where(~seen, torch"),
    P("sampling", "filtered_to_zero", SAMPLING, DISTRIBUTION, DISTRIBUTION.replace("logits.", "logits.masked_fill(logits == -inf, 0.0).")),
    P("sampling", "filtered_to_minus_10", SAMPLING, DISTRIBUTION, DISTRIBUTION.replace("logits.", "logits.nan_to_num(neginf=-10.0).")),
    P("sampling", "softmax_in_bfloat16", SAMPLING, DISTRIBUTION, DISTRIBUTION.replace("logits.softmax(-1)", "logits.bfloat16().softmax(-1).float()")),
]  # fmt: skip

STEPS = "for number in range(1, max_new_tokens + 1):"
ENDS = "if not (all_running or running.any()):"
CHOSEN = "chosen = choose(usable, tokens, params, attention_mask, generator)"
ASKED = "logits = decoder(unseen, cache, attention_mask, last_only=True)[:, -1]"
STOPS = "stops = frozenset(stop_ids)"
STEPPED = "yield DecodingStep(chosen, running, logits)"
BEGINS = "    running = torch.ones(B, dtype=torch.bool, device=tokens.device)\n    all_running = True\n"
STOPPED = (
    "            if stopped:\n"
    "                running = running.index_fill(0, torch.tensor(stopped, device=running.device), False)\n"
    "                all_running = False\n"
)
COUNTED = "positions = next_positions(T, S, attention_mask, tokens.device)"

DECODING = [
    P("generate", "smallest_logit", SAMPLING, "logits.detach().numpy().argmax(-1)", "logits.detach().numpy().argmin(-1)"),
    P("generate", "smallest_logit", LOOP, CHOSEN, "chosen = usable.argmin(-1)"),
    P("generate", "second_likeliest", LOOP, CHOSEN, "chosen = usable.topk(2).indices[:, 1]"),
    P("generate", "first_row_decides", LOOP, CHOSEN, CHOSEN + "[:1].expand(len(tokens))"),
    P("generate", "one_token_too_few", LOOP, STEPS, STEPS.replace(" + 1", "")),
    P("generate", "one_token_too_many", LOOP, STEPS, STEPS.replace(" + 1", " + 2")),
    P("generate", "one_at_least", LOOP, STEPS, STEPS.replace("max_new_tokens + 1", "max(max_new_tokens, 1) + 1")),
    P("generate", "prompt_left_out", LOOP, "torch.cat([tokens, *(", "torch.cat([tokens[:, :0], *("),
    P("generate", "padding_attended", LOOP, ASKED, ASKED.replace("attention_mask", "None")),
    P("generate", "padding_of_the_first_row", LOOP, ASKED,
      ASKED.replace("attention_mask", "None if attention_mask is None else attention_mask[:1].expand_as(attention_mask)")),
    P("generate", "first_stop_id_only", LOOP, STOPS, "stops = frozenset([*stop_ids][:1])"),
    P("generate", "never_stops", LOOP, STOPS, "stops = frozenset()"),
    P("generate", "stops_unasked", LOOP, STOPS, "stops = frozenset([*stop_ids, *configured_stop_ids(model.config)])"),
    P("generate", "one_row_stops_all", LOOP, ENDS, "if not all_running:"),
    P("generate", "first_row_stops_all", LOOP, ENDS, "if not running[0]:"),
    P("generate", "positions_restart", LLAMA, "return positions.masked_fill(attention_mask == 0, 0)[:, S - T :]",
      "return positions.masked_fill(attention_mask == 0, 0)[:, :T]"),
    P("generate", "positions_one_behind", LLAMA, COUNTED, COUNTED + " - int(T == 1)"),
    P("generate", "positions_one_ahead", LLAMA, COUNTED, COUNTED + " + int(T == 1)"),
    P("generate", "stops_must_coincide", LOOP, STOPPED,
      "            running = torch.tensor([token not in stops for token in chosen.tolist()])\n"
      "            all_running = bool(running.any())\n"),
    P("generate", "stops_in_the_prompt", LOOP, BEGINS,
      "    running = ~torch.isin(tokens, torch.tensor([*stops], dtype=torch.long)).any(1)\n"
      "    all_running = bool(running.all())\n"),
    P("generate", "stop_id_left_out", LOOP, STEPPED,
      STEPPED.replace("chosen", "chosen.masked_fill(torch.isin(chosen, torch.tensor([*stops], dtype=torch.long)), 0)")),
    P("generate", "one_step_too_late", LOOP, ENDS, ENDS[:-1] + " and not stopped:"),
    P("generate", "draws_too", LOOP, CHOSEN, "torch.multinomial(usable.softmax(-1), 1)\n            " + CHOSEN),
]  # fmt: skip

CATALOGUED = [
    *RMS_NORM, *ROTARY_EMBEDDING, *ATTENTION_LAYER, *FEED_FORWARD, *WHOLE_BLOCK, *KEY_VALUE_CACHE, *WHOLE_MODEL,
    *CROSS_ENTROPY, *NEXT_TOKEN, *DECODING,
]  # fmt: skip
