"""torchtune's Llama 3 and 3.1 (PyPI: torchtune): pairs of neighbours, its own names, a cache inside its modules."""

import torch
from torchtune.models import llama3, llama3_1

from llama_reference import conventions as c
from llama_reference.conventions import crop, parameters, reorder, rms_norm, swiglu  # noqa: F401  as they stand


def build(config, state, dtype):
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
                     rope_type=("default", "llama3"),
                     head_dim=config["hidden_size"] // config["num_attention_heads"])  # fmt: skip
    rope = config["rope_parameters"]
    sizes = {
        "vocab_size": config["vocab_size"], "num_layers": config["num_hidden_layers"],
        "max_seq_len": max(4096, config["max_position_embeddings"]),
        "num_heads": config["num_attention_heads"], "num_kv_heads": config["num_key_value_heads"],
        "embed_dim": config["hidden_size"], "intermediate_dim": config["intermediate_size"],
        "norm_eps": config["rms_norm_eps"], "rope_base": rope["rope_theta"]}  # fmt: skip
    if rope["rope_type"] == "default":
        model = llama3.llama3(**sizes)
    else:  # the other numbers of llama3 scaling are fixed in its builder
        c.only(config, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
        model = llama3_1.llama3_1(**sizes, scale_factor=rope["factor"])
    return c.Built(model, c.TORCHTUNE, state, dtype, lambda weights: c.permute_qk(weights, config, c.interleaved))


def rotary(handle, q, k, positions):
    def turn(x):
        turned = handle.model.layers[0].attn.pos_embeddings(c.interleaved(x).transpose(1, 2), input_pos=positions)
        return c.half_split(turned.transpose(1, 2))

    return turn(q), turn(k)


def _call(handle, part, x, positions, mask, cache):
    T = x.shape[1]
    if cache is None:
        return part(x, mask=c.visible(T, T, mask)[:, 0].expand(len(x), -1, -1), input_pos=positions)
    with cache.inside(handle.model, T) as places:
        room = next(iter(cache.parts.values())).k_cache.shape[2]
        look = c.visible(T, int(places[-1]) + 1, mask)[:, 0].expand(len(x), -1, -1)
        look = torch.nn.functional.pad(look, (0, room - look.shape[-1]))
        for kept in cache.parts.values():
            kept.cache_pos = places[0] + torch.arange(room)
        return part(x, mask=look, input_pos=positions)


def attention(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle.model.layers[layer].attn(x, x, **rest), x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle.model.layers[layer](x, **rest), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle.model(x, **rest), tokens, positions, mask, cache)


def new_cache(handle, batch, length):
    for layer in handle.model.layers:
        layer.setup_caches(batch, handle.model.output.weight.dtype, encoder_max_seq_len=0, decoder_max_seq_len=length)
    cache = c.HeldCache(handle.model, "kv_cache")
    for layer in handle.model.layers:
        layer.attn.kv_cache = None
    return cache
