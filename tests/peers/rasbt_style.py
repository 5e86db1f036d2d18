"""The stand-in of a book: its own names, halves, positions from an offset, a list of pairs for a cache."""

from llama_reference import conventions as c
from llama_reference.conventions import crop, parameters, reorder, rms_norm, swiglu  # noqa: F401  as they stand
from tests.peers.standins.rasbt import KVCache, Llama3Model, apply_rope

AT = "model.layers.{}."
NAMES = {"model.embed_tokens": "tok_emb", "model.norm": "final_norm", "lm_head": "out_head"}
NAMES |= {AT + "input_layernorm": "trf_blocks.{}.norm1", AT + "post_attention_layernorm": "trf_blocks.{}.norm2"}
for theirs, part in {"W_query": "q_proj", "W_key": "k_proj", "W_value": "v_proj", "out_proj": "o_proj"}.items():
    NAMES[f"{AT}self_attn.{part}"] = f"trf_blocks.{{}}.att.{theirs}"
for number, part in enumerate(("gate_proj", "up_proj", "down_proj"), start=1):
    NAMES[f"{AT}mlp.{part}"] = f"trf_blocks.{{}}.ff.fc{number}"


def build(config, state, dtype):
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
    c.only(config, rope_type="default", head_dim=config["hidden_size"] // config["num_attention_heads"])
    keys = {"vocab_size": "vocab_size", "emb_dim": "hidden_size", "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads", "n_kv_groups": "num_key_value_heads",
            "hidden_dim": "intermediate_size"}  # fmt: skip
    cfg = {theirs: config[ours] for theirs, ours in keys.items()}
    cfg |= {"rope_base": config["rope_parameters"]["rope_theta"], "context_length": 4096}
    return c.Built(Llama3Model(cfg), NAMES, state, dtype)


def rotary(handle, q, k, positions):
    return tuple(apply_rope(x, handle.model.cos, handle.model.sin, c.offset(positions)) for x in (q, k))


def _layer(part, number, model):
    """part(x) of a row, over the pair that its cache holds of this layer."""

    def call(x, positions, kept):
        pair = kept.get(number) if kept is not None else None
        start = pair[0].shape[2] if pair is not None else 0
        c.from_zero(positions - start)
        x, pair = part(x, model.hidden(start, x.shape[1]), model.cos, model.sin, start, pair)
        if kept is not None:
            kept.update(number, pair)
        return x

    return call


def attention(handle, layer, x, positions, mask, cache=None):
    part = handle.model.trf_blocks[layer].att
    return c.row_by_row(_layer(part, layer, handle.model), x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    part = handle.model.trf_blocks[layer]
    return c.row_by_row(_layer(part, layer, handle.model), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    def call(ids, positions, kept):
        start = kept.get(0)[0].shape[2] if kept is not None and kept.get(0) is not None else 0
        c.from_zero(positions - start)
        return handle.model(ids, start, kept)

    return c.row_by_row(call, tokens, positions, mask, cache)


def new_cache(handle, batch, _length):
    def cropped(row, length):
        row.pairs = [pair and tuple(x[:, :, :length] for x in pair) for pair in row.pairs]
        return row

    return c.RowCache([KVCache(len(handle.model.trf_blocks)) for _ in range(batch)], cropped)
