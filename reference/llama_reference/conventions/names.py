"""Other names of weights and modules than Hugging Face's, as maps from these."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llama_reference.implementation import State

Names = Mapping[str, str]

_LAYER = "model.layers.{}."
META: Names = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    _LAYER + "input_layernorm": "layers.{}.attention_norm",
    _LAYER + "post_attention_layernorm": "layers.{}.ffn_norm",
    _LAYER + "self_attn.q_proj": "layers.{}.attention.wq",
    _LAYER + "self_attn.k_proj": "layers.{}.attention.wk",
    _LAYER + "self_attn.v_proj": "layers.{}.attention.wv",
    _LAYER + "self_attn.qkv_proj": "layers.{}.attention.wqkv",
    _LAYER + "self_attn.o_proj": "layers.{}.attention.wo",
    _LAYER + "mlp.gate_proj": "layers.{}.feed_forward.w1",
    _LAYER + "mlp.up_proj": "layers.{}.feed_forward.w3",
    _LAYER + "mlp.down_proj": "layers.{}.feed_forward.w2",
}
"""Meta's own names, and gpt-fast's where q, k and v are fused."""
TORCHTUNE: Names = {
    **META,
    "model.norm.weight": "norm.scale",
    _LAYER + "input_layernorm": "layers.{}.sa_norm",
    _LAYER + "input_layernorm.weight": "layers.{}.sa_norm.scale",
    _LAYER + "post_attention_layernorm": "layers.{}.mlp_norm",
    _LAYER + "post_attention_layernorm.weight": "layers.{}.mlp_norm.scale",
    _LAYER + "self_attn.o_proj": "layers.{}.attn.output_proj",
    **{_LAYER + f"self_attn.{name}_proj": f"layers.{{}}.attn.{name}_proj" for name in "qkv"},
    **{_LAYER + f"mlp.{name}_proj": f"layers.{{}}.mlp.w{i}" for i, name in enumerate(("gate", "down", "up"), 1)},
}
LITGPT: Names = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "lm_head": "lm_head",
    _LAYER + "input_layernorm": "transformer.h.{}.norm_1",
    _LAYER + "post_attention_layernorm": "transformer.h.{}.norm_2",
    _LAYER + "self_attn.qkv_proj": "transformer.h.{}.attn.qkv",
    _LAYER + "self_attn.o_proj": "transformer.h.{}.attn.proj",
    **{_LAYER + f"mlp.{name}_proj": f"transformer.h.{{}}.mlp.{theirs}"
       for name, theirs in (("gate", "fc_1"), ("up", "fc_2"), ("down", "proj"))},
}  # fmt: skip
GPT_NEOX: Names = {
    "model.embed_tokens": "gpt_neox.embed_in",
    "model.norm": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    _LAYER + "input_layernorm": "gpt_neox.layers.{}.input_layernorm",
    _LAYER + "post_attention_layernorm": "gpt_neox.layers.{}.post_attention_layernorm",
    _LAYER + "self_attn.qkv_proj": "gpt_neox.layers.{}.attention.query_key_value",
    _LAYER + "self_attn.o_proj": "gpt_neox.layers.{}.attention.dense",
    **{_LAYER + f"mlp.{name}_proj": f"gpt_neox.layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
}
CS336: Names = {
    "model.embed_tokens": "token_embeddings",
    "model.norm": "ln_final",
    "lm_head": "lm_head",
    _LAYER + "input_layernorm": "layers.{}.ln1",
    _LAYER + "post_attention_layernorm": "layers.{}.ln2",
    **{_LAYER + f"self_attn.{name}_proj": f"layers.{{}}.attn.{name}_proj" for name in "qkv"},
    _LAYER + "self_attn.o_proj": "layers.{}.attn.output_proj",
    **{_LAYER + f"mlp.{name}_proj": f"layers.{{}}.ffn.w{i}" for i, name in enumerate(("gate", "down", "up"), 1)},
}
"""Those of Stanford's CS336, assignment 1."""


def name(key: str, names: Names) -> str:
    """The other name of a module or tensor; `names` maps modules or whole tensors, of one layer or, with {} for its
    number, of all. Raises ValueError where the map does not name it.
    """
    number = re.search(r"\d+", key)
    for known in (key, re.sub(r"\d+", "{}", key, count=1)):
        module, _, kind = known.rpartition(".")
        if known in names or module in names:
            theirs = names[known] if known in names else f"{names[module]}.{kind}"
            return theirs.format(number[0] if number else "")
    raise ValueError(f"the map of names has neither {known!r} nor {module!r}")


def rename(state: State, names: Names) -> State:
    """The tensors under other names. Raises ValueError for a tensor that the map does not name."""
    return {name(key, names): tensor for key, tensor in state.items()}
