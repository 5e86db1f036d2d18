"""keras-hub's Llama 3 on its torch backend (PyPI: keras-hub), built and loaded by its own converter."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import torch
from keras_hub.src.models.llama3.llama3_backbone import Llama3Backbone
from keras_hub.src.utils.transformers import convert_llama3

from llama_reference import conventions as c
from llama_reference.conventions import crop, reorder  # noqa: F401  as they stand


class Loader:
    """What the converter takes weights from."""

    def __init__(self, state):
        self.state = state

    def port_weight(self, keras_variable, hf_weight_key, hook_fn=lambda w, _shape: w):
        keras_variable.assign(hook_fn(self.state[hf_weight_key].numpy(), list(keras_variable.shape)))


def build(config, state, dtype):
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, rope_type=("default", "llama3"))
    c.only(config, head_dim=config["hidden_size"] // config["num_attention_heads"])
    model = Llama3Backbone(**convert_llama3.convert_backbone_config(config), dtype=str(dtype).removeprefix("torch."))
    convert_llama3.convert_weights(model, Loader(state), config)
    return model


def rms_norm(handle, where, x):
    *layer, part = where.removeprefix("model.").removeprefix("layers.").split(".")
    names = {"input_layernorm": "_self_attention_layernorm", "post_attention_layernorm": "_feedforward_layernorm"}
    return getattr(handle.transformer_layers[int(layer[0])], names[part])(x) if layer else handle.layer_norm(x)


def rotary(handle, q, k, positions):
    turn = handle.transformer_layers[0]._self_attention_layer.rotary_embedding_layer
    return tuple(turn(x.transpose(1, 2), positions=positions).transpose(1, 2) for x in (q, k))


def _call(part, x, positions, mask, cache):
    """part(x, kept, start) of each row; what it has kept is one tensor a layer, and how far they are filled."""

    def call(x, positions, kept):
        start = kept["filled"] if kept is not None else 0
        c.from_zero(positions - start)
        if kept is not None:
            kept["filled"] += x.shape[1]
        return part(x, kept, start)

    return c.row_by_row(call, x, positions, mask, cache)


def _through(layer, number, x, kept, start):
    if kept is None:
        return layer(x)
    x, kept[number] = layer(x, self_attention_cache=kept[number], self_attention_cache_update_index=start)
    return x


def attention(handle, layer, x, positions, mask, cache=None):
    def part(x, kept, start):
        theirs = handle.transformer_layers[layer]._self_attention_layer
        T = x.shape[1]
        if kept is None:
            return theirs(x, attention_mask=c.visible(T, T)[0])
        room = kept[layer].shape[2]
        look = c.visible(room, room)[0, :, start : start + T]
        x, kept[layer] = theirs(x, attention_mask=look, cache=kept[layer], cache_update_index=start)
        return x

    return _call(part, x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    theirs = handle.transformer_layers[layer]
    return _call(lambda *row: _through(theirs, layer, *row), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    def part(ids, kept, start):
        x = handle.token_embedding(ids)
        for number, layer in enumerate(handle.transformer_layers):
            x = _through(layer, number, x, kept, start)
        return handle.token_embedding(handle.layer_norm(x), reverse=True)

    return _call(part, tokens, positions, mask, cache)


def new_cache(handle, batch, length):
    G = handle.num_key_value_heads
    H = handle.hidden_dim // handle.num_query_heads
    dtype = getattr(torch, handle.layer_norm.compute_dtype)

    def cropped(row, length):
        return row | {"filled": length}

    rows = [
        {i: torch.zeros(1, 2, length, G, H, dtype=dtype) for i in range(handle.num_layers)} | {"filled": 0}
        for _ in range(batch)
    ]
    return c.RowCache(rows, cropped)
