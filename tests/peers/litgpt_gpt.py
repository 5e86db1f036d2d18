"""litgpt's GPT (PyPI: litgpt): fused qkv, one position for all rows where it caches, a cache inside its modules."""

from litgpt.config import Config
from litgpt.model import GPT, apply_rope

from llama_reference import conventions as c
from llama_reference.conventions import crop, parameters, reorder, rms_norm, swiglu  # noqa: F401  as they stand

ROOM = 4096  # of its tables at least: the suite asks so far, whatever the configuration says
SCALING = {
    "default": None,
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}


def build(config, state, dtype):
    c.only(config, hidden_act="silu", mlp_bias=config["attention_bias"], rope_type=tuple(SCALING))
    rope, scaling = config["rope_parameters"], None
    if keys := SCALING[rope["rope_type"]]:
        scaling = {key: rope[key] for key in keys}
        if original := rope.get("original_max_position_embeddings"):
            scaling["original_max_seq_len"] = original
        if rope["rope_type"] == "yarn":
            scaling |= {"beta_fast": 32, "beta_slow": 1}
    model = GPT(Config(
        block_size=max(ROOM, config["max_position_embeddings"]), n_layer=config["num_hidden_layers"],
        n_embd=config["hidden_size"],
        vocab_size=config["vocab_size"], padded_vocab_size=config["vocab_size"], norm_class_name="RMSNorm",
        norm_eps=config["rms_norm_eps"], parallel_residual=False, n_head=config["num_attention_heads"],
        head_size=config["head_dim"], n_query_groups=config["num_key_value_heads"], rope_base=rope["rope_theta"],
        rotary_percentage=1.0, rope_adjustments=scaling, intermediate_size=config["intermediate_size"],
        bias=config["mlp_bias"], mlp_class_name="LLaMAMLP"))  # fmt: skip
    if config["tie_word_embeddings"]:
        state = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    return c.Built(model, c.LITGPT, state, dtype, lambda weights: c.fuse_qkv(weights, config))


def rotary(handle, q, k, positions):
    table = handle.model.cos[positions], handle.model.sin[positions]
    return apply_rope(q, *table), apply_rope(k, *table)


def _call(handle, part, x, positions, mask, cache):
    table = (handle.model.cos[positions], handle.model.sin[positions])
    T = x.shape[1]
    if cache is None:
        return part(x, *table, c.visible(T, T, mask))
    with cache.inside(handle.model, T) as places:
        S = int(places[-1]) + 1
        return part(x, *table, c.visible(T, S, mask), places, S)


def attention(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda *a: handle.model.transformer.h[layer].attn(*a), x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda *a: handle.model.transformer.h[layer](*a), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    """Through the layers with their own masks and positions: GPT.forward counts from 0 and knows no padding."""

    def through(x, *rest):
        for layer in handle.model.transformer.h:
            x = layer(x, *rest)
        return handle.model.lm_head(handle.model.transformer.ln_f(x))

    return _call(handle, through, handle.model.transformer.wte(tokens), positions, mask, cache)


def new_cache(handle, batch, length):
    handle.model.set_kv_cache(batch, length, dtype=handle.model.lm_head.weight.dtype)
    cache = c.HeldCache(handle.model, "kv_cache")
    handle.model.clear_kv_cache()
    return cache
