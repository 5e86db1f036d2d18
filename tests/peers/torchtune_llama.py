"""torchtune's Llama 3 and 3.1 (PyPI: torchtune): pairs of neighbours, its own names, a cache inside its modules."""

import torch
from torchtune.models import llama3, llama3_1

from llama_reference import conventions


def build(config, state, dtype):
    conventions.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, tie_word_embeddings=False,
                     rope_type=("default", "llama3"),
                     head_dim=config["hidden_size"] // config["num_attention_heads"])  # fmt: skip
    rope = config["rope_parameters"]
    sizes = {
        "vocab_size": config["vocab_size"], "num_layers": config["num_hidden_layers"], "max_seq_len": 4096,
        "num_heads": config["num_attention_heads"], "num_kv_heads": config["num_key_value_heads"],
        "embed_dim": config["hidden_size"], "intermediate_dim": config["intermediate_size"],
        "norm_eps": config["rms_norm_eps"], "rope_base": rope["rope_theta"]}  # fmt: skip
    if rope["rope_type"] == "default":
        model = llama3.llama3(**sizes)
    else:  # the other numbers of llama3 scaling are fixed in its builder
        conventions.only(config, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
        model = llama3_1.llama3_1(**sizes, scale_factor=rope["factor"])
    names = conventions.TORCHTUNE
    model.leaves = conventions.load(
        model, state, lambda hf: conventions.rename(conventions.interleave_qk(hf, config), names), dtype
    )
    return model.eval()


def parameters(handle):
    return handle.leaves


def rms_norm(handle, where, x):
    return handle.get_submodule(conventions.name(where + ".weight", conventions.TORCHTUNE).removesuffix(".scale"))(x)


def rotary(handle, q, k, positions):
    def turn(x):
        turned = handle.layers[0].attn.pos_embeddings(conventions.interleaved(x).transpose(1, 2), input_pos=positions)
        return conventions.half_split(turned.transpose(1, 2))

    return turn(q), turn(k)


def _call(handle, part, x, positions, mask, cache):
    T = x.shape[1]
    if cache is None:
        return part(x, mask=conventions.may_look(T, T, mask)[:, 0].expand(len(x), -1, -1), input_pos=positions)
    with cache.inside(handle, T) as places:
        room = next(iter(cache.parts.values())).k_cache.shape[2]
        look = conventions.may_look(T, int(places[-1]) + 1, mask)[:, 0].expand(len(x), -1, -1)
        look = torch.nn.functional.pad(look, (0, room - look.shape[-1]))
        for kept in cache.parts.values():
            kept.cache_pos = places[0] + torch.arange(room)
        return part(x, mask=look, input_pos=positions)


def attention(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle.layers[layer].attn(x, x, **rest), x, positions, mask, cache)


def swiglu(handle, layer, x):
    return handle.layers[layer].mlp(x)


def block(handle, layer, x, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle.layers[layer](x, **rest), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    return _call(handle, lambda x, **rest: handle(x, **rest), tokens, positions, mask, cache)


def new_cache(handle, batch, length):
    for layer in handle.layers:
        layer.setup_caches(batch, handle.output.weight.dtype, encoder_max_seq_len=0, decoder_max_seq_len=length)
    cache = conventions.HeldCache(handle, "kv_cache")
    for layer in handle.layers:
        layer.attn.kv_cache = None
    return cache


def crop(_handle, cache, length):
    return cache.crop(length)


def reorder(_handle, cache, rows):
    return cache.reorder(rows)
