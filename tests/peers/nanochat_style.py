"""The stand-in that turns by −θ: halves exchanged, masks True where nothing is seen, one cache object for all."""

from llama_reference import conventions as c
from llama_reference.conventions import parameters, rms_norm, swiglu  # noqa: F401  as they stand
from tests.peers.standins.nanochat import GPT, Cache, turn

AT = "model.layers.{}."
NAMES = {"model.embed_tokens": "wte", "model.norm": "norm", "lm_head": "lm_head"}
NAMES |= {AT + "input_layernorm": "h.{}.norm_1", AT + "post_attention_layernorm": "h.{}.norm_2"}
for theirs, part in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "o_proj"}.items():
    NAMES[f"{AT}self_attn.{part}"] = f"h.{{}}.attn.c_{theirs}"
for theirs, part in {"gate": "gate_proj", "fc": "up_proj", "proj": "down_proj"}.items():
    NAMES[f"{AT}mlp.{part}"] = f"h.{{}}.mlp.c_{theirs}"


def build(config, state, dtype):
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
    c.only(config, rope_type="default")
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    model = GPT(*(config[key] for key in (*keys, "intermediate_size")), config["rope_parameters"]["rope_theta"])
    return c.Built(model, NAMES, state, dtype, lambda weights: c.permute_qk(weights, config, c.exchanged))


def rotary(handle, q, k, positions):
    cos_sin = handle.model.angles(positions, q.dtype)
    return tuple(c.exchanged(turn(c.exchanged(x).transpose(1, 2), *cos_sin).transpose(1, 2)) for x in (q, k))


def _hidden(x, mask, cache, layer=0):
    filled = cache.keys[layer].shape[2] if cache is not None and cache.keys[layer] is not None else 0
    return ~c.visible(x.shape[1], filled + x.shape[1], mask)


def attention(handle, layer, x, positions, mask, cache=None):
    cos_sin = handle.model.angles(positions, x.dtype)
    return handle.model.h[layer].attn(x, cos_sin, _hidden(x, mask, cache, layer), cache)


def block(handle, layer, x, positions, mask, cache=None):
    cos_sin = handle.model.angles(positions, x.dtype)
    return handle.model.h[layer](x, cos_sin, _hidden(x, mask, cache, layer), cache)


def llama(handle, tokens, positions, mask, cache=None):
    return handle.model(tokens, positions, _hidden(tokens, mask, cache), cache)


def new_cache(handle, _batch, _length):
    return Cache(len(handle.model.h))


def _change(cache, change):
    cache.keys = [x if x is None else change(x) for x in cache.keys]
    cache.values = [x if x is None else change(x) for x in cache.values]
    return cache


def crop(_handle, cache, length):
    return _change(cache, lambda x: x[:, :, :length])


def reorder(_handle, cache, rows):
    return _change(cache, lambda x: x[rows])
