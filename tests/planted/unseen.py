"""Forty mistakes in src/llama_scratch, written by somebody who had not read the catalogue: what is tried to be caught,
and named or described, when nobody has prepared for it.
"""

from __future__ import annotations

from tests.planted.plant import Plant

NORM = "model/rms_norm.py"
ROTARY = "model/rotary.py"
ATTENTION = "model/attention.py"
SWIGLU = "model/swiglu.py"
BLOCK = "model/block.py"
CACHE = "model/kv_cache.py"
LLAMA = "model/llama.py"
LOSS = "model/loss.py"
SAMPLING = "generate/sampling.py"

UNSEEN = [
    # variance_for_mean_square
    Plant(
        "rms_norm",
        "variance_instead_of_mean_square",
        NORM,
        "x32.pow(2).mean(-1, keepdim=True)",
        "x32.var(-1, keepdim=True, correction=0)",
        "the mean is taken away before squares are averaged",
    ),
    # eps_as_a_floor
    Plant(
        "rms_norm",
        "eps_as_a_floor",
        NORM,
        "torch.rsqrt(mean_square + self.eps)",
        "torch.rsqrt(mean_square.clamp(min=self.eps))",
        "eps is a lower bound of the mean square and is not added",
    ),
    # mean_over_positions_too
    Plant(
        "rms_norm",
        "over_rows_and_channels",
        NORM,
        "x32.pow(2).mean(-1, keepdim=True)",
        "x32.pow(2).mean((-2, -1), keepdim=True)",
        "one root mean square for all positions of a row",
    ),
    # eps_of_the_dtype
    Plant(
        "rms_norm",
        "",
        NORM,
        "mean_square + self.eps",
        "mean_square + torch.finfo(x.dtype).eps",
        "torch.nn.RMSNorm without eps takes the dtype's own",
    ),
    # frequencies_by_linspace
    Plant(
        "rotary",
        "exponent_to_the_end",
        ROTARY,
        "periods = base ** (channels / H)",
        "periods = base ** torch.linspace(0, 1, H // 2)",
        "exponents reach 1 at the last pair",
    ),
    # exponent_without_the_two
    Plant(
        "rotary",
        "exponent_without_2",
        ROTARY,
        "channels = torch.arange(0, H, 2,",
        "channels = torch.arange(0, H // 2, 1,",
        "exponents are i/H and not 2i/H",
    ),
    # rotate_half_without_its_sign
    Plant(
        "rotary",
        "no_sign",
        ROTARY,
        "torch.cat((-second, first), dim=-1)",
        "torch.cat((second, first), dim=-1)",
        "a reflection in place of a rotation",
    ),
    # attention_factor_on_cosine_only
    Plant(
        "rotary",
        "",
        ROTARY,
        "(both.cos() * factor, both.sin() * factor)",
        "(both.cos() * factor, both.sin())",
        "the attention factor of yarn and longrope multiplies the cosine only",
    ),
    # llama3_by_the_new_context
    Plant(
        "rotary",
        "",
        ROTARY,
        "return _llama3(1.0 / periods, rope), 1.0",
        'return _llama3(1.0 / periods, rope | {"original_max_position_embeddings": longest}), 1.0',
        "llama3 bands by max_position_embeddings and not the original length",
    ),
    # llama3_blend_swapped
    Plant(
        "rotary",
        "llama3_blend_inverted",
        ROTARY,
        "(1 - blend) * theta / factor + blend * theta",
        "blend * theta / factor + (1 - blend) * theta",
        "the two ends of llama3's blend are swapped",
    ),
    # dynamic_without_exponent
    Plant(
        "rotary",
        "dynamic_without_exponent",
        ROTARY,
        "stretch ** (H / (H - 2))",
        "stretch",
        "the base is multiplied by the stretch itself",
    ),
    # yarn_never_truncates
    Plant(
        "rotary",
        "yarn_edges_not_rounded",
        ROTARY,
        'if rope.get("truncate", True):',
        'if rope.get("truncate", False):',
        "the ramp's ends are not rounded to whole pairs",
    ),
    # length_of_the_call
    Plant(
        "rotary",
        "",
        ROTARY,
        "length = int(positions.max()) + 1",
        "length = positions.shape[-1]",
        "dynamic and longrope look at the tokens of this call, not at the position that is reached",
    ),
    # positions_end_with_the_table
    Plant(
        "rotary",
        "table_ends",
        ROTARY,
        "half = positions[..., None].float()",
        "half = positions.clamp(max=config.max_position_embeddings - 1)[..., None].float()",
        "all positions past max_position_embeddings are the last one",
    ),
    # values_turned_too
    Plant(
        "attention",
        "values_turned",
        ATTENTION,
        "        k = rotate(k, rotation)\n",
        "        k = rotate(k, rotation)\n        v = rotate(v, rotation)\n",
        "v is turned as q and k are",
    ),
    # scaled_by_the_number_of_heads
    Plant(
        "attention",
        "",
        ATTENTION,
        "* q.shape[-1] ** -0.5",
        "* q.shape[1] ** -0.5",
        "scores are divided by √N and not √H",
    ),
    # softmax_over_queries
    Plant(
        "attention",
        "softmax_over_queries",
        ATTENTION,
        "scores.softmax(dim=-1,",
        "scores.softmax(dim=-2,",
        "weights sum to 1 over queries and not over keys",
    ),
    # values_shared_in_another_order
    Plant(
        "attention",
        "",
        ATTENTION,
        "v = share_heads(v, R)",
        "v = v.repeat(1, R, 1, 1)",
        "values are tiled, keys repeated",
    ),
    # window_of_32
    Plant(
        "attention",
        "sliding_window",
        ATTENTION,
        "allowed = (columns <= columns[S - T :, None])[None, None]",
        "allowed = ((columns <= columns[S - T :, None]) & (columns > columns[S - T :, None] - 32))[None, None]",
        "a query sees the last 32 tokens only",
    ),
    # padding_hides_queries
    Plant(
        "attention",
        "",
        ATTENTION,
        "attention_mask[:, None, None, :].bool()",
        "attention_mask[:, None, S - T :, None].bool()",
        "padded queries are masked and padded keys are seen",
    ),
    # mask_of_minus_ten
    Plant(
        "attention",
        "mask_too_weak",
        ATTENTION,
        "lowest = torch.finfo(q.dtype).min",
        "lowest = -10.0",
        "what is masked leaks: 10 is taken away",
    ),
    # heads_merged_without_transposition
    Plant(
        "attention",
        "heads_not_transposed_back",
        ATTENTION,
        "y.transpose(1, 2).flatten(2)",
        "y.reshape(y.shape[0], y.shape[2], -1)",
        "heads and positions are mixed where heads are put together",
    ),
    # bias_of_k_ignored
    Plant(
        "attention",
        "",
        ATTENTION,
        "split_heads(self.k_proj(x), self.head_dim)",
        "split_heads(F.linear(x, self.k_proj.weight), self.head_dim)",
        "k_proj.bias is not added",
    ),
    # quick_gelu
    Plant(
        "swiglu",
        "quick_gelu",
        SWIGLU,
        '"gelu": F.gelu',
        '"gelu": lambda z: z * (1.702 * z).sigmoid()',
        "gelu is z σ(1.702 z)",
    ),
    # bias_of_down_ignored
    Plant(
        "swiglu",
        "down_bias_dropped",
        SWIGLU,
        "self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))",
        "self.activation(self.gate_proj(x)) * self.up_proj(x) @ self.down_proj.weight.T",
        "down_proj.bias is not added; the product is right otherwise",
    ),
    # both_activated
    Plant(
        "swiglu",
        "both_activated",
        SWIGLU,
        "* self.up_proj(x)",
        "* self.activation(self.up_proj(x))",
        "the activation is applied to both projections",
    ),
    # residual_from_the_normed
    Plant(
        "block",
        "residual_from_the_normed",
        BLOCK,
        "        h = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)\n",
        "        x = self.input_layernorm(x)\n        h = x + self.self_attn(x, rotation, mask, cache)\n",
        "the first residual adds the normalised input",
    ),
    # residual_halved
    Plant(
        "block",
        "",
        BLOCK,
        "h = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)",
        "h = (x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)) * 2**-0.5",
        "the first sum is divided by √2",
    ),
    # second_norm_on_attentions_output
    Plant(
        "block",
        "",
        BLOCK,
        "        h = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)\n"
        "        return h + self.mlp(self.post_attention_layernorm(h))",
        "        y = self.self_attn(self.input_layernorm(x), rotation, mask, cache)\n"
        "        h = x + self.post_attention_layernorm(y)\n"
        "        return h + self.mlp(h)",
        "post_attention_layernorm norms what attention returns, and not the input of the feed-forward",
    ),
    # one_position_a_call
    Plant(
        "kv_cache",
        "advances_by_one",
        CACHE,
        "self.length += T",
        "self.length += 1",
        "the length grows by one for each call, however many tokens it has",
    ),
    # values_not_reordered
    Plant(
        "kv_cache",
        "reorder_of_keys_only",
        CACHE,
        "        self.values = self.values[:, rows]\n",
        "        B = self.values.shape[1]\n"
        "        self.values = self.values[:, : len(rows)] if len(rows) <= B else self.values[:, rows]\n",
        "reorder leaves the values where they were",
    ),
    # values_from_the_start
    Plant(
        "kv_cache",
        "",
        CACHE,
        "self.values[:, :, self.filled : S] = v.detach()",
        "self.values[:, :, :T] = v.detach()",
        "new values are written over the first ones",
    ),
    # one_cache_for_all_layers
    Plant(
        "kv_cache",
        "",
        LLAMA,
        "layer_caches = cache or [None] * len(self.layers)",
        "layer_caches = [next(iter(cache)) if cache is not None else None] * len(self.layers)",
        "all layers write into the first layer's cache",
    ),
    # embedding_scaled
    Plant(
        "llama",
        "embedding_scaled",
        LLAMA,
        "x = self.embed_tokens(tokens)",
        "x = self.embed_tokens(tokens) * self.config.hidden_size**0.5",
        "embeddings are multiplied by √D",
    ),
    # eps_of_the_last_norm
    Plant(
        "rms_norm",
        "eps_fixed_at_1e-5",
        LLAMA,
        "self.norm = RMSNorm(D, config.rms_norm_eps)",
        "self.norm = RMSNorm(D, 1e-5)",
        "the last norm has eps 1e-5, the others the configuration's",
    ),
    # logits_capped
    Plant(
        "llama",
        "logits_capped",
        LLAMA,
        "return self.lm_head(x[:, -1:] if last_only else x)",
        "return 30 * (self.lm_head(x[:, -1:] if last_only else x) / 30).tanh()",
        "logits are bent by 30 tanh(z / 30)",
    ),
    # head_always_tied
    Plant(
        "llama",
        "embedding_as_head",
        LLAMA,
        "if self.config.tie_word_embeddings:",
        "if True:",
        "the head is the embedding whatever the configuration says",
    ),
    # mean_of_row_means
    Plant(
        "loss",
        "mean_of_row_means",
        LOSS,
        "    return F.cross_entropy(rows, targets, ignore_index=IGNORED, reduction=mode) / (count or 1)",
        "    each = F.cross_entropy(rows, targets, ignore_index=IGNORED, reduction='none').view_as(labels)\n"
        "    return (each.sum(1) / (targets.view_as(labels) != IGNORED).sum(1).clamp(min=1)).mean()",
        "the mean of each row's mean, where rows have different numbers of targets",
    ),
    # temperature_twice
    Plant(
        "sampling",
        "",
        SAMPLING,
        "    return logits.softmax(-1)\n\n\ndef penalised",
        "    return (logits / params.temperature).softmax(-1)\n\n\ndef penalised",
        "temperature is applied twice, before the filters and after them",
    ),
    # min_p_absolute
    Plant(
        "sampling",
        "min_p_absolute",
        SAMPLING,
        "probabilities < fraction * probabilities.amax(-1, keepdim=True)",
        "probabilities < fraction",
        "min_p is compared with the probability itself",
    ),
]
