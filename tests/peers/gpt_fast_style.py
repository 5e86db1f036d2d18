"""The stand-in for fast decoding: fused qkv, pairs of neighbours, input_pos, a cache inside its modules."""

from llama_reference import conventions as c
from llama_reference.conventions import crop, parameters, reorder, rms_norm, swiglu  # noqa: F401  as they stand
from tests.peers.standins.gpt_fast import Transformer, turn


def build(config, state, dtype):
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, tie_word_embeddings=False)
    c.only(config, rope_type="default")
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    sizes = [config[key] for key in (*keys, "intermediate_size", "rms_norm_eps")]
    model = Transformer(
        *sizes, config["rope_parameters"]["rope_theta"], max(4096, config["max_position_embeddings"]), dtype
    )

    def convert(weights):
        return c.fuse_qkv(c.permute_qk(weights, config, c.interleaved), config)

    return c.Built(model, c.META, state, dtype, convert)


def rotary(handle, q, k, positions):
    turns = handle.model.turns[c.input_pos(positions)]
    return tuple(c.half_split(turn(c.interleaved(x).transpose(1, 2), turns).transpose(1, 2)) for x in (q, k))


def _call(handle, part, x, positions, mask, cache):
    """part(x, positions, mask) of each row; where it caches, the places are the positions."""

    def call(x, positions, cache):
        at = c.input_pos(positions)
        if cache is None:
            return part(x, at, c.visible(len(at), len(at)))
        with cache.inside(handle.model, len(at)) as places:
            c.from_zero(positions - places[0])
            room = next(iter(cache.parts.values())).k_cache.shape[2]
            return part(x, at, c.visible(room, room)[:, :, places])

    return c.row_by_row(call, x, positions, mask, cache)


def attention(handle, layer, x, positions, mask, cache=None):
    part = handle.model.layers[layer].attention
    turns = handle.model.turns
    return _call(handle, lambda x, at, look: part(x, turns[at], look, at), x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    part, turns = handle.model.layers[layer], handle.model.turns
    return _call(handle, lambda x, at, look: part(x, turns[at], look, at), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    def part(ids, at, _look):
        if cache is None:  # the model takes its places in the text for the positions
            c.from_zero(at[None])
        return handle.model(ids, at)

    return _call(handle, part, tokens, positions, mask, cache)


def new_cache(handle, batch, length):
    handle.model.setup_caches(1, length)
    cache = c.RowCache([c.HeldCache(handle.model, "kv_cache") for _ in range(batch)], c.HeldCache.crop)
    for layer in handle.model.layers:
        layer.attention.kv_cache = None
    return cache
