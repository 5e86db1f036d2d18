"""Mistakes in attention."""

import torch
import torch.nn.functional as F

from llama_reference.mistakes.mistake import mistake, wide
from llama_reference.standard.stepwise import StepwiseLlama


def _without_bias(*parts):
    def linear(self, handle, name, x):
        if any(name.endswith(part) for part in parts):
            return F.linear(x, handle[name + ".weight"])
        return StepwiseLlama.linear(self, handle, name, x)

    return linear


def _projected(change):
    def project(self, handle, at, x):
        return change(self, handle, *StepwiseLlama.project(self, handle, at, x))

    return project


def _unit(x):
    return x * torch.rsqrt(wide(x).pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype)


def _added_ones(self, q, k, v, seen, scale):
    R = q.shape[1] // k.shape[1]
    scores = q @ self.share(k, R).transpose(-2, -1) * scale + seen.to(q.dtype)
    return self.softmax(scores) @ self.share(v, R)


def _sink(self, scores):
    padded = torch.cat((scores, torch.zeros_like(scores[..., :1])), dim=-1)
    return padded.softmax(dim=-1, dtype=self.wide).to(scores.dtype)[..., :-1]


def _without_mask_over_a_cache(self, T, S, mask):
    seen = StepwiseLlama.visible(self, T, S, mask)
    return seen if T == S else torch.ones_like(seen)


def _without_causality_over_a_cache(self, T, S):
    return StepwiseLlama.causal(self, T, S) if T == S else torch.ones(T, S, dtype=torch.bool)


def columns(looks):
    """A causal rule on (query column, key column)."""

    def causal(_self, T, S):
        columns = torch.arange(S)
        return looks(columns[S - T :, None], columns[None])

    return causal


def _k_permuted(heads):
    """k's rows as a conversion leaves them that undoes Meta's pairing with another number of heads than G."""

    def project(self, handle, at, x):
        q, k, v = StepwiseLlama.project(self, handle, at, x)
        flat = self.merge(k)
        _, G, _, H = k.shape
        taken = heads(q.shape[1], G)
        if flat.shape[-1] % (2 * taken):
            raise NotImplementedError(f"{flat.shape[-1]} rows of k do not divide into pairs of {taken} heads")
        meta = torch.arange(G * H).view(G, 2, H // 2).transpose(1, 2).flatten()
        rows = meta.view(taken, -1, 2).transpose(1, 2).flatten()
        return q, self.split(flat[..., rows], H), v

    return project


def _reordered(parts, order):
    """The rows of some projections in another order within each head, as a conversion leaves them that permutes
    for Meta's pairing where it should not, or does not where it should.
    """

    def project(self, handle, at, x):
        q, k, v = StepwiseLlama.project(self, handle, at, x)
        rows = order(q.shape[-1])
        return q[..., rows] if "q" in parts else q, k[..., rows] if "k" in parts else k, v

    return {"project": project}


def _neighbours_to_halves(H):
    return torch.arange(H).view(H // 2, 2).T.flatten()


def _halves_to_neighbours(H):
    return torch.arange(H).view(2, H // 2).T.flatten()


def _permutation(name, why, seen, parts):
    return mistake(
        name, why, seen, [_reordered(parts, _halves_to_neighbours)], **_reordered(parts, _neighbours_to_halves)
    )


def _groups(change):
    """Other groups than those that are to be shared: always, or only where there is anything to share."""
    return {
        "share": lambda self, x, R: StepwiseLlama.share(self, change(x), R),
        "ways": [{"share": lambda self, x, R: StepwiseLlama.share(self, x if R == 1 else change(x), R)}],
    }


def _values_turned(self, handle, layer, x, positions, mask, cache):
    at = f"model.layers.{layer}.self_attn."
    q, k, v = self.project(handle, at, x)
    q, k = self.rotary(handle, q, k, positions)
    _, v = self.rotary(handle, v, v, positions)
    if cache is not None:
        k, v = self.append(cache, layer, k, v)
    read = self.attend(q, k, v, self.visible(q.shape[2], k.shape[2], mask), self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _no_transpose(_self, x, H):
    B, T, _ = x.shape
    return x.reshape(B, -1, T, H)


def _masked_too_weakly(self, q, k, v, seen, scale):
    R = q.shape[1] // k.shape[1]
    scores = q @ self.share(k, R).transpose(-2, -1) * scale - 8.0 * (~seen).to(q.dtype)
    return self.softmax(scores) @ self.share(v, R)


MISTAKES = [
    mistake("heads_tiled", "key/value heads are repeated as 0 1 0 1 (repeat) instead of 0 0 1 1 (repeat_interleave)",
            "jax-js#180, axlearn#842, candle-vllm#52", share=lambda _s, x, R: x.repeat(1, R, 1, 1)),
    mistake("groups_reversed", "query heads read the groups in reverse order",
            **_groups(lambda x: x.flip(1))),
    mistake("one_group_for_all", "all query heads read group 0",
            **_groups(lambda x: x[:, :1].expand_as(x))),
    mistake("scale_missing", "scores are not scaled", scale=lambda _s, _c: 1.0),
    mistake("scale_from_hidden_over_heads", "the scale is √(hidden_size / heads) instead of √head_dim",
            scale=lambda _s, c: (c["hidden_size"] / c["num_attention_heads"]) ** -0.5),
    mistake("scale_from_hidden_size", "the scale is √hidden_size instead of √head_dim",
            scale=lambda _s, c: c["hidden_size"] ** -0.5),
    mistake("scaled_twice", "scores are divided by head_dim instead of its root, as when both q and the scores are scaled",
            scale=lambda _s, c: 1 / c["head_dim"]),
    mistake("sees_one_ahead", "a query also sees the next token", causal=columns(lambda q, k: k <= q + 1)),
    mistake("does_not_see_itself", "a query does not see its own token", causal=columns(lambda q, k: (k < q) | (k == 0)),
            ways=[{"causal": columns(lambda q, k: k < q)}]),
    mistake("not_causal", "queries see every token, later ones too",
            causal=columns(lambda q, k: torch.ones_like(q * k, dtype=torch.bool))),
    mistake("anti_causal", "queries see themselves and later tokens only", causal=columns(lambda q, k: k >= q)),
    mistake("aligned_top_left", "over a cache, query t sees keys 0 … t instead of those up to its own column",
            "pytorch#108108, onnx#8068, mlx#2835, gpt-fast#233",
            causal=lambda _s, T, S: torch.arange(S) <= torch.arange(T)[:, None],
            ways=[{"causal": lambda s, T, S: StepwiseLlama.causal(s, T, S) if T == 1 else torch.ones(T, S, dtype=torch.bool).tril(0)}]),
    mistake("no_mask_over_a_cache", "the mask is dropped whenever there is a cache: fine one token at a time",
            "TinyLLM#17, rasbt#697", visible=_without_mask_over_a_cache),
    mistake("not_causal_over_a_cache", "only padding is masked whenever there is a cache",
            "TinyLLM#18", causal=_without_causality_over_a_cache),
    mistake("sliding_window", "a query sees the last 16 tokens only", causal=columns(lambda q, k: (k <= q) & (k > q - 16))),
    mistake("padding_ignored", "padding is attended to", "unsloth#3699, transformers#33095, alpaca-lora#315",
            padding=lambda _s, mask: torch.ones_like(mask, dtype=torch.bool)),
    mistake("padding_inverted", "real tokens are masked, padding is seen", padding=lambda _s, mask: mask == 0),
    mistake("padding_of_the_first_row", "all rows get the padding of the first",
            padding=lambda _s, mask: mask[:1].bool().expand_as(mask)),
    mistake("padding_reversed", "padding is taken to stand on the right", padding=lambda _s, mask: mask.flip(1).bool()),
    mistake("mask_added_as_ones", "the mask is added to the scores as 1 and 0 instead of 0 and -inf", attend=_added_ones),
    mistake("mask_too_weak", "masked scores are lowered by 8 only", attend=_masked_too_weakly),
    mistake("softmax_over_queries", "the softmax runs over queries instead of keys",
            softmax=lambda s, x: x.softmax(dim=-2, dtype=s.wide).to(x.dtype)),
    mistake("softmax_with_a_sink", "1 is added to the denominator of the softmax", softmax=_sink),
    mistake("no_softmax", "scores weigh the values as they are, negative ones as 0",
            softmax=lambda _s, x: F.relu(x) / x.shape[-1]),
    mistake("dropout_in_eval", "attention dropout is active outside training",
            "nanoGPT#240, IBL_MtM#13", softmax=lambda s, x: F.dropout(StepwiseLlama.softmax(s, x), 0.1)),
    mistake("keys_and_values_swapped", "keys stand where values belong, and the reverse",
            project=_projected(lambda _s, _h, q, k, v: (q, v, k))),
    mistake("k_permuted_as_q", "converted from Meta's pairing, k's rows are permuted by the number of query heads",
            "llama.cpp#3018, TinyLlama#24, transformers#31788", project=_k_permuted(lambda N, _G: N),
            ways=[{"project": _k_permuted(lambda N, G: max(N // G, 1))}]),
    _permutation("permutation_forgotten", "q and k are paired in one layout and their weights are in the other: the rows that "
                 "go from Meta's neighbours to HF's halves were not permuted, or twice",
                 "llama2.c#286, torchtitan#1441, nurl#584", "qk"),
    _permutation("k_permutation_forgotten", "k's rows are in the other pairing's layout, q's are not", "nanotron#214", "k"),
    _permutation("q_permutation_forgotten", "q's rows are in the other pairing's layout, k's are not", "transformers#30755", "q"),
    mistake("queries_normalised", "queries and keys are normalised first, as in Qwen 3",
            project=_projected(lambda _s, _h, q, k, v: (_unit(q), _unit(k), v))),
    mistake("heads_not_transposed_back", "the output is flattened without bringing positions before heads",
            merge=lambda _s, x: x.reshape(x.shape[0], x.shape[2], -1)),
    mistake("heads_not_transposed", "projections are cut into heads without transposing: positions and heads mix",
            "tiny-universe#21", split=_no_transpose),
    mistake("heads_merged_channel_first", "merged heads interleave: channel by channel instead of head by head",
            merge=lambda _s, x: x.permute(0, 2, 3, 1).flatten(2)),
    mistake("biases_dropped", "attention_bias is ignored", "vllm#3767, sglang#2748",
            linear=_without_bias("q_proj", "k_proj", "v_proj", "o_proj")),
    mistake("o_bias_dropped", "o_proj has no bias, as in Qwen 2; in HF's Llama attention_bias gives it one",
            "mlc-llm#3494", linear=_without_bias("o_proj")),
    mistake("qkv_biases_dropped", "only o_proj keeps its bias", linear=_without_bias("q_proj", "k_proj", "v_proj")),
    mistake("q_bias_dropped", "q_proj has no bias", linear=_without_bias("q_proj")),
    mistake("v_bias_dropped", "v_proj has no bias", linear=_without_bias("v_proj")),
    mistake("values_turned", "the rotary embedding turns values too", attention_step=_values_turned,
            ways=[{"project": _projected(
                lambda s, h, q, k, v: (q, k, s.rotate(v, *s.angles(h.config, torch.arange(v.shape[2])[None], v.dtype))))}]),
    mistake("positions_restart", "attention turns queries and keys by 0 … T - 1 whatever positions it is given",
            attention_step=lambda s, h, layer, x, p, mask, cache: StepwiseLlama.attention_step(
                s, h, layer, x, torch.arange(x.shape[1]).expand_as(p), mask, cache)),
]  # fmt: skip
