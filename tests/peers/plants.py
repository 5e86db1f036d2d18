"""Mistakes that people make, planted in the source of other people's Llamas and of the stand-ins, five in each or more.

Where a program has a fault of its own, what is planted is one more.
"""

from tests.peers.planting import Plant


def _in(adapter, module, *plants):
    """(component, name, old, new)"""
    return [Plant(adapter, component, name, module, old, new) for component, name, old, new in plants]


STANDINS = [
    *_in(
        "cs336_student", "tests.peers.standins.cs336",
        ("rms_norm", "eps_outside_the_root", "torch.sqrt((wide**2).mean(-1, keepdim=True) + self.eps)",
         "(torch.sqrt((wide**2).mean(-1, keepdim=True)) + self.eps)"),
        ("attention", "exponent_over_half", "torch.arange(0, size, 2) / size", "torch.arange(0, size, 2) / (size // 2)"),
        ("attention", "scaled_twice|scale_exponent|scale_times", "q.shape[-1] ** 0.5", "q.shape[-1]"),
        ("attention", "sees_one_ahead|sees_ahead", ".tril()", ".tril(1)"),
        ("swiglu", "gate_and_up_swapped", "self.w2(gate * torch.sigmoid(gate) * self.w3(x))",
         "self.w2(self.w3(x) * torch.sigmoid(self.w3(x)) * gate)"),
        ("block", "first_norm_twice", "self.ffn(self.ln2(x))", "self.ffn(self.ln1(x))"),
        ("llama", "final_norm_missing", "self.lm_head(self.ln_final(x))", "self.lm_head(x)"),
    ),
    *_in(
        "gpt_fast_style", "tests.peers.standins.gpt_fast",
        ("rms_norm", "eps_fixed_at_1e-6|eps_fixed", "keepdim=True) + self.eps", "keepdim=True) + 1e-6"),
        ("rotary", "theta_fixed_at_10000|theta_fixed", "= table(theta,", "= table(10000.0,"),
        ("attention", "heads_tiled", "k = k.repeat_interleave(self.heads // self.groups, dim=1)\n        v = v.repeat_interleave(self.heads // self.groups, dim=1)",
         "k = k.repeat(1, self.heads // self.groups, 1, 1)\n        v = v.repeat(1, self.heads // self.groups, 1, 1)"),
        ("kv_cache", "values_kept_as_keys", "self.v_cache[:, :, places] = v", "self.v_cache[:, :, places] = k"),
        ("kv_cache", "aligned_top_left", "torch.arange(S) <= input_pos[:, None]",
         "torch.arange(S) <= torch.arange(len(input_pos))[:, None]"),
        ("swiglu", "gelu_always", "F.silu(self.w1(x))", "F.gelu(self.w1(x))"),
    ),
    *_in(
        "scratch_llm_style", "tests.peers.standins.scratch_llm",
        ("rms_norm", "one_plus_gain|gain_plus", "** 0.5 * self.gain", "** 0.5 * (1 + self.gain)"),
        ("attention", "scale_missing|scale_times|scale_fixed|scale_exponent", " / q.shape[-1] ** 0.5", ""),
        ("attention", "aligned_top_left", ".triu(1 + first)", ".triu(1)"),
        ("kv_cache", "values_kept_as_keys", 'self.cache = {"k": k, "v": v}', 'self.cache = {"k": k, "v": k}'),
        ("swiglu", "gate_and_up_swapped", "gate, up = self.both(x)", "up, gate = self.both(x)"),
        ("block", "second_norm_missing", "self.feed_forward(self.norm_2(x))", "self.feed_forward(x)"),
    ),
    *_in(
        "nanochat_style", "tests.peers.standins.nanochat",
        ("rotary", "theta_fixed_at_10000|theta_fixed", "self.speeds = theta **", "self.speeds = 10000.0 **"),
        ("attention", "only_queries", "k = turn(k, *cos_sin).transpose(1, 2)", "k = k.transpose(1, 2)"),
        ("attention", "queries_normalised|queries_normalised_with", "if cache is not None:\n            k, v",
         "q, k = (F.rms_norm(y, y.shape[-1:]) for y in (q, k))\n        if cache is not None:\n            k, v"),
        ("kv_cache", "values_of_layer_0", "v = torch.cat((self.values[layer], v), dim=2)",
         "v = torch.cat((self.values[0][:, :, : self.values[layer].shape[2]], v), dim=2)"),
        ("swiglu", "squared_relu", "F.silu(self.c_gate(x))", "F.relu(self.c_gate(x)).square()"),
        ("block", "parallel", "x = x + self.attn(self.norm_1(x), cos_sin, hidden, cache)\n        return x + self.mlp(self.norm_2(x))",
         "return x + self.attn(self.norm_1(x), cos_sin, hidden, cache) + self.mlp(self.norm_2(x))"),
        ("llama", "logits_capped_at", "self.lm_head(self.norm(x))", "15 * torch.tanh(self.lm_head(self.norm(x)) / 15)"),
    ),
    *_in(
        "rasbt_style", "tests.peers.standins.rasbt",
        ("rotary", "wrong_way_round", "torch.cat((-x2, x1), dim=-1)", "torch.cat((x2, -x1), dim=-1)"),
        ("rotary", "exponent_from_1", "torch.arange(0, head_dim, 2)", "torch.arange(2, head_dim + 2, 2)"),
        ("attention", "sees_one_ahead|sees_ahead", "diagonal=1)[start:S]", "diagonal=2)[start:S]"),
        ("attention", "scale_from_hidden_size|scale_times|scale_exponent|scale_fixed", "/ self.head_dim**0.5", "/ (self.head_dim * self.num_heads) ** 0.5"),
        ("attention", "heads_merged_channel_first", "(attn_weights @ values).transpose(1, 2).reshape(",
         "(attn_weights @ values).permute(0, 2, 3, 1).reshape("),
        ("kv_cache", "values_forgotten", "prev_v, values], dim=2)", "prev_v * 0, values], dim=2)"),
        ("swiglu", "up_missing", "nn.functional.silu(x_fc1) * x_fc2", "nn.functional.silu(x_fc1)"),
        ("block", "second_residual_from_the_normed", "shortcut = x\n        x = self.norm2(x)", "x = self.norm2(x)\n        shortcut = x"),
    ),
]  # fmt: skip

# Of the versions that README.md names.
PACKAGES = [
    *_in(
        "litgpt_gpt", "litgpt.model",
        ("rms_norm", "one_plus_gain|gain_plus", "weight = (1 + self.weight) if self.add_unit_offset else self.weight",
         "weight = 1 + self.weight"),
        ("rotary", "wrong_way_round", "rotated = torch.cat((-x2, x1), dim=-1)  # (B, ..., T, head_size)",
         "rotated = torch.cat((x2, -x1), dim=-1)"),
        ("attention", "heads_tiled", "k = k.repeat_interleave(q_per_kv, dim=1)  # (B, nh_q, T, hs)\n            v = v.repeat_interleave(q_per_kv, dim=1)  # (B, nh_q, T, hs)\n\n        if self.apply_sliding",
         "k = k.repeat(1, q_per_kv, 1, 1)\n            v = v.repeat(1, q_per_kv, 1, 1)\n\n        if self.apply_sliding"),
        ("attention", "scale_from_hidden_size|scale_times|scale_exponent|scale_fixed",
         "scale = 1.0 / math.sqrt(self.config.attention_scores_scalar or self.config.head_size)\n        scale = scale * self.mscale * self.mscale\n\n        # with softcapping",
         "scale = 1.0 / math.sqrt(self.config.n_embd)\n\n        # with softcapping"),
        ("kv_cache", "values_kept_as_keys", "v = batched_index_copy_(self.v[:bs, ...], -2, input_pos, v)",
         "v = batched_index_copy_(self.v[:bs, ...], -2, input_pos, k)"),
        ("swiglu", "gate_and_up_swapped", "x = F.silu(x_fc_1) * x_fc_2\n        return self.proj(x)\n\n\nclass GemmaMLP",
         "x = F.silu(x_fc_2) * x_fc_1\n        return self.proj(x)\n\n\nclass GemmaMLP"),
        ("block", "residual_from_the_normed", "            x = attention_output + x\n            x_normed = self.norm_2(x)",
         "            x = attention_output + x_normed\n            x_normed = self.norm_2(x)"),
    ),
    *_in(
        "torchtune_llama", "torchtune.modules.attention",
        ("attention", "heads_tiled", "k = k.unsqueeze(2).expand(expand_shape).flatten(1, 2)\n            v = v.unsqueeze(2).expand(expand_shape).flatten(1, 2)",
         "k = k.repeat(1, q_per_kv, 1, 1)\n            v = v.repeat(1, q_per_kv, 1, 1)"),
        ("attention", "only_queries", "                k = self.pos_embeddings(k, input_pos=input_pos)\n", "                pass\n"),
    ),
    *_in(
        "torchtune_llama", "torchtune.modules.rms_norm",
        ("rms_norm", "eps_fixed_at_1e-5|eps_fixed", "eps=self.eps,", "eps=1e-5,"),
    ),
    *_in(
        "torchtune_llama", "torchtune.modules.kv_cache",
        ("kv_cache", "writes_one_early|writes_off_by", "k_out[:, :, self.cache_pos[:seq_len]] = k_val\n        v_out[:, :, self.cache_pos[:seq_len]] = v_val",
         "at = (self.cache_pos[:seq_len] - (self.cache_pos[0] > 0).long())\n        k_out[:, :, at] = k_val\n        v_out[:, :, at] = v_val"),
    ),
    *_in(
        "torchtune_llama", "torchtune.modules.feed_forward",
        ("swiglu", "activated_after_the_product", "h = self.activation(self.w1(x))\n        if self.w3 is not None:\n            h = h * self.w3(x)",
         "h = self.activation(self.w1(x) * self.w3(x))"),
    ),
    *_in(
        "torchtune_llama", "torchtune.modules.position_embeddings",
        ("rotary", "positions_ignored", "self.cache[:seq_len] if input_pos is None else self.cache[input_pos]\n        )\n\n        # reshape input; the last dimension is used for computing the output.\n        # Cast to float to match the reference implementation\n        # tensor has shape [b, s, n_h, h_d // 2, 2]",
         "self.cache[:seq_len]\n        )"),
    ),
    *_in(
        "keras_hub_llama", "keras_hub.src.models.llama.llama_decoder",
        ("block", "second_norm_missing", "x = self._feedforward_layernorm(x)\n", "\n"),
        ("block", "residual_twice", "decoder_output = x + residual", "decoder_output = x + residual + decoder_sequence"),
    ),
    *_in(
        "keras_hub_llama", "keras_hub.src.models.llama.llama_layernorm",
        ("rms_norm", "gain_ignored|gain_plus", "return ops.cast(x * self.scale, self.compute_dtype)", "return ops.cast(x, self.compute_dtype)"),
    ),
    *_in(
        "keras_hub_llama", "keras_hub.src.models.llama.llama_attention",
        ("kv_cache", "writes_at_0", "start = [0, cache_update_index, 0, 0]", "start = [0, 0, 0, 0]"),
        ("attention", "scale_missing|scale_times|scale_exponent|scale_fixed", "scale=self._inv_norm_factor,\n            )\n            return attention_output",
         "scale=1.0,\n            )\n            return attention_output"),
    ),
    *_in(
        "keras_hub_llama", "keras_hub.src.models.llama.llama_rotary_embedding",
        ("rotary", "exponent_over_half|exponent_over_another_number", "ops.cast(rotary_dim, \"float32\"),\n        )\n        inverse_freq",
         "ops.cast(rotary_dim // 2, \"float32\"),\n        )\n        inverse_freq"),
    ),
    *_in(
        "mlx_lm_llama", "mlx_lm.models.llama",
        ("attention", "heads_not_transposed_back", "output = output.transpose(0, 2, 1, 3).reshape(B, L, -1)", "output = output.reshape(B, L, -1)"),
        ("attention", "scale_from_hidden_over_heads|scale_times|scale_exponent|scale_fixed", "self.scale = head_dim**-0.5", "self.scale = (dim / n_heads) ** -0.5"),
        ("block", "parallel", "r = self.mlp(self.post_attention_layernorm(h))", "r = self.mlp(self.post_attention_layernorm(x))"),
        ("rotary", "theta_fixed_at_10000|theta_fixed", "args.rope_theta,\n            args.rope_traditional,", "10000.0,\n            args.rope_traditional,"),
        ("llama", "final_norm_missing", "return self.norm(h)", "return h"),
    ),
    *_in(
        "mlx_lm_llama", "mlx_lm.models.activations",
        ("swiglu", "gate_and_up_swapped", "return nn.silu(gate) * x", "return nn.silu(x) * gate"),
    ),
    *_in(
        "x_transformers_decoder", "x_transformers.x_transformers",
        ("rms_norm", "unit_length", "return F.normalize(x, dim = -1) * self.scale * gamma\n\nclass AdaptiveRMSNorm",
         "return F.normalize(x, dim = -1) * gamma\n\nclass AdaptiveRMSNorm"),
        ("rotary", "no_sign", "x1, x2 = x.unbind(dim = -1)\n    x = stack((-x2, x1), dim = -1)", "x1, x2 = x.unbind(dim = -1)\n    x = stack((x2, x1), dim = -1)"),
        ("swiglu", "gate_and_up_swapped", "up, gate = self.proj(x).chunk(2, dim = -1)", "gate, up = self.proj(x).chunk(2, dim = -1)"),
    ),
    *_in(
        "x_transformers_decoder", "x_transformers.attend",
        ("attention", "scaled_twice|scale_exponent|scale_times", "scale = default(self.scale, q.shape[-1] ** -0.5)", "scale = 1 / q.shape[-1]"),
        ("attention", "softmax_over_queries", "attn = self.attn_fn(sim)", "attn = sim.softmax(dim = -2)"),
    ),
]  # fmt: skip

ALL = [*STANDINS, *PACKAGES]
