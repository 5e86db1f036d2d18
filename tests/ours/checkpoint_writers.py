"""Small checkpoints in every format, written from one state dict by code that shares nothing with what reads them.

The other formats' order of W_q's and W_k's rows is made here by index: channel i of a head, of H, goes to row 2i in the
first half and to 2(i − H/2) + 1 in the second.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_reference.implementation import Config, State
from llama_reference.standard.cases import HARD, ROPES, weights
from llama_scratch import Llama
from llama_scratch.checkpoint import config_file

# every dimension another one, but for the heads, and F what Meta's formula makes of D
PLAIN: Config = HARD | {
    "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8, "num_hidden_layers": 2,
    "intermediate_size": 172, "attention_bias": False, "mlp_bias": False, "rope_parameters": ROPES["default"],
}  # fmt: skip
VARIANTS: dict[str, Config] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "GQA": {"num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "head_dim override": {"head_dim": 20, "num_key_value_heads": 2},
    "all at once": HARD | {"num_hidden_layers": 2, "tie_word_embeddings": True},
}


def made(variant: str = "untied", dtype: torch.dtype = torch.float32, **changes) -> tuple[Config, State]:
    """A configuration and loud weights; a tied head is left out."""
    config = PLAIN | VARIANTS[variant] | changes
    return config, {key: weight.to(dtype) for key, weight in weights(config, seed=0).items()}


def built(config: Config, state: State) -> Llama:
    """The model of exactly these weights, loaded by PyTorch alone."""
    model = Llama(config_file.from_dict(config)).to(next(iter(state.values())).dtype)
    head = {"lm_head.weight": state["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}
    model.load_state_dict({**state, **head}, strict=True)
    return model.eval()


def logits(model: Callable, vocab_size: int = 101) -> Tensor:
    tokens = torch.randint(vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens)


def write_hf(directory: Path, config: Config, state: State, kind: str = "safetensors", shards: int = 1) -> Path:
    """config.json and weights, safetensors or bin, in one file or several with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    (directory / "config.json").write_text(json.dumps(config | {"dtype": dtype, "architectures": ["LlamaForCausalLM"]}))
    stem, suffix = {"safetensors": ("model", ".safetensors"), "bin": ("pytorch_model", ".bin")}[kind]
    write = (lambda w, p: save_file(w, p, {"format": "pt"})) if kind == "safetensors" else torch.save
    if shards == 1:
        write(state, directory / f"{stem}{suffix}")
        return directory
    weight_map = {}
    for i in range(shards):
        keys = sorted(state)[i::shards]
        name = f"{stem}-{i + 1:05}-of-{shards:05}{suffix}"
        write({key: state[key] for key in keys}, directory / name)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(w.numel() * w.element_size() for w in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return directory


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows as Meta, llama2.c and llama.cpp order them."""
    H = len(weight) // heads
    order = [h * H + (i // 2 if i % 2 == 0 else H // 2 + i // 2) for h in range(heads) for i in range(H)]
    return weight[order].contiguous()


def turned(config: Config, state: State) -> State:
    """All weights, with those rows in the others' order."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return {k: neighbours(w, heads[k.split(".")[-2]]) if k.split(".")[-2] in heads else w for k, w in state.items()}


META = {
    "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1), "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}  # fmt: skip


def write_meta(directory: Path, config: Config, state: State, parts: int = 1, by_rows: bool = False, **params) -> Path:
    """consolidated.*.pth and params.json. A tied head is stored twice, as Meta does."""
    directory.mkdir(parents=True, exist_ok=True)
    named: dict[str, tuple[Tensor, int | None]] = {}
    embedding = state["model.embed_tokens.weight"]
    for key, weight in turned(config, {"lm_head.weight": embedding} | state).items():
        if ".layers." in key:
            _, _, i, module = key.removesuffix(".weight").split(".", 3)
            name, axis = META[module]
            named[f"layers.{i}.{name}.weight"] = (weight, axis)
    named["tok_embeddings.weight"] = (embedding, 0 if by_rows else 1)
    named["norm.weight"] = (state["model.norm.weight"], None)
    named["output.weight"] = (state.get("lm_head.weight", embedding), 0)
    for i in range(parts):
        part = {n: (w if a is None else w.chunk(parts, a)[i]).clone() for n, (w, a) in named.items()}
        torch.save(part | {"rope.freqs": torch.full((4,), torch.nan)}, directory / f"consolidated.{i:02}.pth")
    content = {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"], "multiple_of": 4,
               "n_heads": config["num_attention_heads"], "norm_eps": config["rms_norm_eps"],
               "vocab_size": -1}  # fmt: skip
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        content["n_kv_heads"] = config["num_key_value_heads"]
    (directory / "params.json").write_text(json.dumps(content | params))
    return directory


def write_llama2c(path: Path, config: Config, state: State) -> Path:
    """The legacy .bin of llama2.c, in float32."""
    state = {key: weight.float() for key, weight in turned(config, state).items()}
    L = config["num_hidden_layers"]
    T = config["max_position_embeddings"]
    H = config["head_dim"]
    V = config["vocab_size"] * (1 if config["tie_word_embeddings"] else -1)
    sizes = (config["hidden_size"], config["intermediate_size"], L, config["num_attention_heads"],
             config["num_key_value_heads"], V, T)  # fmt: skip
    modules = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")  # fmt: skip
    order = [state["model.embed_tokens.weight"]]
    order += [state[f"model.layers.{i}.{module}.weight"] for module in modules for i in range(L)]
    order += [state["model.norm.weight"], torch.full((2, T, H // 2), torch.nan)]
    order += [state["lm_head.weight"]] if V < 0 else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<7i", *sizes) + b"".join(tensor.numpy().tobytes() for tensor in order))
    return path


def write_llama2c_tokenizer(path: Path, model: bytes) -> Path:
    """llama2.c's tokenizer.bin of a SentencePiece model: the longest, then score, length and bytes of each piece."""
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    entries = []
    for i in range(library.vocab_size()):
        text = library.id_to_piece(i).replace("\u2581", " ")
        text = f"\n{text}\n" if i in (library.bos_id(), library.eos_id()) else text
        entries.append((library.get_score(i), text.encode()))
    content = b"".join(struct.pack("<fI", score, len(text)) + text for score, text in entries)
    path.write_bytes(struct.pack("<I", max(len(text) for _, text in entries)) + content)
    return path


GGUF = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def gguf_name(key: str) -> str:
    module, kind = key.rsplit(".", 1)
    if ".layers." not in key:
        return f"{GGUF[module]}.{kind}"
    _, _, i, module = module.split(".", 3)
    return f"blk.{i}.{GGUF[module]}.{kind}"


def write_gguf(path: Path, config: Config, state: State, matrices: str = "F32", extra: Callable | None = None,
               words: bool = True) -> Path:  # fmt: skip
    """A .gguf through the package's own writer; vectors are F32, as llama.cpp has them. `extra` may add to it, a
    tokenizer for instance, where there are no `words` already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if words:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_token_list(["a word"] * config["vocab_size"])
    if extra:
        extra(writer)
    for key, weight in turned(config, state).items():
        kind = gguf.GGMLQuantizationType[matrices if weight.ndim > 1 else "F32"]
        numbers = gguf.quants.quantize(weight.float().numpy(), kind)
        writer.add_tensor(gguf_name(key), np.ascontiguousarray(numbers), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
