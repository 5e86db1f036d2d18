"""The stand-in that remembers: fused gate and up, pairs of neighbours, offsets only, a cache of dictionaries inside."""

from llama_reference import conventions as c
from llama_reference.conventions import crop, parameters, reorder, rms_norm, swiglu  # noqa: F401  as they stand
from tests.peers.standins.scratch_llm import LLM, turn

AT = "model.layers.{}."
NAMES = {"model.embed_tokens": "embedding", "lm_head": "head", "model.norm": "norm", "model.norm.weight": "norm.gain"}
for number, norm in enumerate(("input_layernorm", "post_attention_layernorm"), start=1):
    NAMES |= {AT + norm: f"blocks.{{}}.norm_{number}", f"{AT}{norm}.weight": f"blocks.{{}}.norm_{number}.gain"}
for theirs, part in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}.items():
    NAMES[f"{AT}self_attn.{part}"] = f"blocks.{{}}.attention.{theirs}"
for theirs, part in {"both": "gate_up_proj", "down": "down_proj"}.items():
    NAMES[f"{AT}mlp.{part}"] = f"blocks.{{}}.feed_forward.{theirs}"


def build(config, state, dtype):
    D, N = config["hidden_size"], config["num_attention_heads"]
    c.only(config, hidden_act="silu", attention_bias=False, mlp_bias=False, num_key_value_heads=N, head_dim=D // N)
    c.only(config, rope_type="default", tie_word_embeddings=False)
    theta = config["rope_parameters"]["rope_theta"]
    model = LLM(config["vocab_size"], D, config["num_hidden_layers"], N, config["intermediate_size"], theta)

    def convert(weights):
        return c.fuse_gate_up(c.permute_qk(weights, config, c.interleaved))

    return c.Built(model, NAMES, state, dtype, convert)


def rotary(handle, q, k, positions):
    first = c.offset(positions)
    theta = handle.model.blocks[0].attention.theta
    return tuple(c.half_split(turn(c.interleaved(x), first, theta)) for x in (q, k))


def _call(handle, part, x, positions, mask, cache):
    def call(x, positions, cache):
        if cache is None:
            c.from_zero(positions)
            return part(x)
        with cache.inside(handle.model, x.shape[1]) as places:
            c.from_zero(positions - places[0])
            return part(x, remember=True)

    return c.row_by_row(call, x, positions, mask, cache)


def attention(handle, layer, x, positions, mask, cache=None):
    return _call(handle, handle.model.blocks[layer].attention, x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    return _call(handle, handle.model.blocks[layer], x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    return _call(handle, handle.model, tokens, positions, mask, cache)


def new_cache(handle, batch, _length):
    return c.RowCache([c.HeldCache(handle.model, "cache") for _ in range(batch)], c.HeldCache.crop)
