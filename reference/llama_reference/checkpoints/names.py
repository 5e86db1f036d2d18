"""Names of Meta's files and of GGUF, and what transformers calls the same."""

import re

from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, NORM

META = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
META_ENDS = {"tok_embeddings.weight": EMBEDDING, "norm.weight": NORM, "output.weight": HEAD}
GGUF = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
GGUF_ENDS = {"token_embd.weight": EMBEDDING, "output_norm.weight": NORM, "output.weight": HEAD}


def of_meta(name: str) -> str | None:
    return META_ENDS.get(name) or _in_layer(r"layers\.(\d+)\.(.+)\.(weight|bias)", name, META)


def of_gguf(name: str) -> str | None:
    return GGUF_ENDS.get(name) or _in_layer(r"blk\.(\d+)\.(.+)\.(weight|bias)", name, GGUF)


def _in_layer(pattern: str, name: str, table: dict[str, str]) -> str | None:
    found = re.fullmatch(pattern, name)
    return f"model.layers.{found[1]}.{table[found[2]]}.{found[3]}" if found and found[2] in table else None
