"""x-transformers' decoder as a Llama (PyPI: x-transformers): attention and feed-forward are layers of their own, up
stands before gate, neighbours are turned, norms have no eps to set.
"""

import torch
from x_transformers import Decoder, TransformerWrapper
from x_transformers.x_transformers import apply_rotary_pos_emb

from llama_reference import conventions as c
from llama_reference.conventions import parameters, rms_norm, swiglu  # noqa: F401  as they stand


def build(config, state, dtype):
    D = config["hidden_size"]
    N = config["num_attention_heads"]
    F = config["intermediate_size"]
    L = config["num_hidden_layers"]
    G = config["num_key_value_heads"]
    H = config["head_dim"]
    V = config["vocab_size"]
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, rope_type="default", rope_theta=10000.0)
    c.only(config, tie_word_embeddings=False)
    layers = Decoder(dim=D, depth=L, heads=N, attn_dim_head=H, attn_kv_heads=G, rotary_pos_emb=True, rotary_emb_dim=H,
                     norm_add_unit_offset=False,
                     use_rmsnorm=True, ff_glu=True, ff_swish=True, ff_no_bias=True, ff_mult=F / D)  # fmt: skip
    model = TransformerWrapper(num_tokens=V, max_seq_len=4096, use_abs_pos_emb=False, attn_layers=layers)
    return c.Built(model, names(L), state, dtype, lambda weights: convert(weights, config))


def names(layers):
    """Hugging Face's layer i is their layers 2i and 2i + 1."""
    found = {
        "model.embed_tokens": "token_emb.emb",
        "lm_head": "to_logits",
        "model.norm.weight": "attn_layers.final_norm.g",
    }
    found |= {"model.norm": "attn_layers.final_norm"}
    for i in range(layers):
        at = f"model.layers.{i}."
        attend = f"attn_layers.layers.{2 * i}."
        feed = f"attn_layers.layers.{2 * i + 1}."
        for norm, theirs in {"input_layernorm": attend, "post_attention_layernorm": feed}.items():
            found |= {at + norm: theirs + "0.0", f"{at}{norm}.weight": theirs + "0.0.g"}
        found |= {f"{at}self_attn.{part}_proj": f"{attend}1.to_{part}" for part in "qkv"}
        found |= {at + "self_attn.o_proj": attend + "1.to_out", at + "mlp.gate_up_proj": feed + "1.ff.0.proj"}
        found |= {at + "mlp.down_proj": feed + "1.ff.2", at + "mlp": feed + "1"}
    return found


def convert(weights, config):
    swapped = {
        key.replace("gate_", "up-").replace("up_", "gate_").replace("up-", "up_"): w for key, w in weights.items()
    }
    fused = c.fuse_gate_up(c.permute_qk(swapped, config, c.interleaved))
    zeros = torch.zeros(2 * config["intermediate_size"], dtype=weights["model.norm.weight"].dtype)
    return fused | {key.replace(".weight", ".bias"): zeros for key in fused if "gate_up_proj" in key}


def rotary(handle, q, k, positions):
    frequencies = handle.model.attn_layers.rotary_pos_emb(positions)
    return tuple(c.half_split(apply_rotary_pos_emb(c.interleaved(x), *frequencies)) for x in (q, k))


def attention(handle, layer, x, positions, mask):
    turns = handle.model.attn_layers.rotary_pos_emb
    part = handle.model.attn_layers.layers[2 * layer][1]
    return c.row_by_row(lambda x, at, _: part(x, rotary_pos_emb=turns(at)), x, positions, mask)


def llama(handle, tokens, positions, mask):
    return c.row_by_row(lambda ids, at, _: c.from_zero(at) or handle.model(ids), tokens, positions, mask)
