"""The student's Llama: no cache, no padding, positions of its own."""

from llama_reference import conventions as c
from llama_reference.conventions import parameters, rms_norm, swiglu  # noqa: F401  as they stand
from tests.peers.standins.cs336 import TransformerLM


def build(config, state, dtype):
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    V, D, L, N, F = (config[key] for key in keys)
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, num_key_value_heads=N, head_dim=D // N)
    c.only(config, rope_type="default", rope_theta=10000.0, tie_word_embeddings=False)
    model = TransformerLM(V, 4096, D, L, N, F, 10000.0, config["rms_norm_eps"])
    return c.Built(model, c.CS336, state, dtype, lambda weights: c.permute_qk(weights, config, c.interleaved))


def attention(handle, layer, x, positions, mask):
    return c.row_by_row(lambda x, at, _: handle.model.layers[layer].attn(x, at), x, positions, mask)


def block(handle, layer, x, positions, mask):
    return c.row_by_row(lambda x, at, _: handle.model.layers[layer](x, at), x, positions, mask)


def llama(handle, tokens, positions, mask):
    return c.row_by_row(lambda ids, at, _: c.from_zero(at) or handle.model(ids), tokens, positions, mask)
