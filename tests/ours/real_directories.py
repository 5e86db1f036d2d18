"""Ten directories as people have them: the files, keys, names, types and shards of real ones, tiny sizes.

Sources: pages of the hub (SmolLM2-135M-Instruct, Yi-6B-Chat, TinyLlama-1.1B-Chat, ChatML fine-tunings of Llama 2,
Llama-3.x-Instruct), what transformers 4.57, transformers 5 and peft 0.21 write, torchtune's FullModelHFCheckpointer,
trl's training templates, llama.cpp's convert_hf_to_gguf, and git-lfs's specification.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file

from llama_reference.implementation import State
from llama_reference.standard.cases import weights
from tests.ours import real_tokenizers
from tests.ours.real_tokenizers import write_json

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
BYTES = slice(3, 265)
SIZES = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "num_hidden_layers": 2}
ROPE = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 128,
        "rope_type": "llama3"}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """given: what a person has. weights, tokenizer: where transformers finds the same; of a GGUF, DIR#FILE."""

    given: Path
    weights: Path
    tokenizer: str


def llama_state(config: Mapping[str, Any], dtype: torch.dtype) -> State:
    """Weights loud enough that texts do not repeat one token; a tied head is left out, an untied one never writes bytes
    of a SentencePiece model: of a run of bytes that is not UTF-8, `tokenizers` makes U+FFFD alone.
    """
    heads = config["num_attention_heads"]
    full = {"num_key_value_heads": heads, "head_dim": config["hidden_size"] // heads} | dict(config)
    full |= {"attention_bias": False, "mlp_bias": False}
    state = {name: weight.to(dtype).contiguous() for name, weight in weights(full, seed=1).items()}
    if "lm_head.weight" in state:
        state["lm_head.weight"][BYTES] = 0
    return state


def basic_config(vocab_size: int, **more: Any) -> dict[str, Any]:
    """What every config.json of a Llama says."""
    common = {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "llama", "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "use_cache": True, "vocab_size": vocab_size,
    }  # fmt: skip
    return common | SIZES | more


def write_safetensors(path: Path, state: State, shards: int = 1) -> None:
    """model.safetensors, or shards named as transformers names them, and their index."""
    if shards == 1:
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(state)
    parts = [names[i * len(names) // shards : (i + 1) * len(names) // shards] for i in range(shards)]
    weight_map = {}
    for i, part in enumerate(parts, start=1):
        file = f"model-{i:05d}-of-{shards:05d}.safetensors"
        save_file({name: state[name] for name in part}, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(weight.nbytes for weight in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(path / "model.safetensors.index.json", index)


def llama2_with_added_tokens(path: Path) -> Made:
    """A ChatML fine-tuning: float16 in three shards, two rows more than tokenizer.model has pieces, and a
    generation_config.json that does not know the new end.
    """
    size = real_tokenizers.llama2_with_added_tokens(path)
    more = {"_name_or_path": "NousResearch/Llama-2-7b-chat-hf", "attention_bias": False, "attention_dropout": 0.0,
            "num_key_value_heads": 4, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.36.2"}  # fmt: skip
    config = basic_config(size, **more)
    write_json(path / "config.json", config)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.36.2"}
    write_json(path / "generation_config.json", {"_from_model_config": True} | ends)
    write_safetensors(path, llama_state(config, torch.float16), shards=3)
    (path / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    return Made(path, path, str(path))


def smollm2(path: Path) -> Made:
    """SmolLM2-Instruct, with the keys that its config.json has for transformers.js and for nanotron."""
    size = real_tokenizers.smollm2(path)
    more = {"attention_bias": False, "attention_dropout": 0.0, "head_dim": 16, "initializer_range": 1 / 24,
            "is_llama_config": True, "mlp_bias": False, "num_key_value_heads": 2, "pad_token_id": 2,
            "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16", "q4f16": "float16"}},
            "transformers_version": "4.42.3"}  # fmt: skip
    config = basic_config(size, **more)
    write_json(path / "config.json", config)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "transformers_version": "4.42.3"}
    write_json(path / "generation_config.json", {"_from_model_config": True} | ends)
    write_safetensors(path, llama_state(config, torch.bfloat16))
    write_json(path / "all_results.json", {"epoch": 2.0, "train_loss": 0.68})
    return Made(path, path, str(path))


def yi(path: Path) -> Made:
    """Yi-Chat: a turn ends with an id that only generation_config.json names."""
    size = real_tokenizers.yi(path)
    more = {"attention_bias": False, "num_key_value_heads": 1, "pad_token_id": 0, "rope_theta": 5000000.0,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.35.0"}  # fmt: skip
    config = basic_config(size, **more)
    write_json(path / "config.json", config)
    write_json(path / "generation_config.json", {
        "bos_token_id": 6, "do_sample": True, "eos_token_id": 7, "max_length": 4096, "pad_token_id": 0,
        "temperature": 0.6, "top_p": 0.8, "transformers_version": "4.35.0",
    })  # fmt: skip
    write_safetensors(path, llama_state(config, torch.bfloat16), shards=3)
    return Made(path, path, str(path))


def llama3_config(size: int, **more: Any) -> dict[str, Any]:
    """Llama 3.2's, with both rope forms of transformers 4."""
    ends = {"bos_token_id": size - 11, "eos_token_id": [size - 10, size - 3, size - 2]}
    rope = {"rope_scaling": ROPE, "rope_theta": 500000.0}
    more = {"attention_bias": False, "attention_dropout": 0.0, "head_dim": 16, "mlp_bias": False,
            "num_key_value_heads": 2} | more  # fmt: skip
    return basic_config(size, **ends, **rope, **more)


def llama3_generation(config: dict[str, Any], version: str) -> dict[str, Any]:
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    return ends | {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "transformers_version": version}


def peft_merge(path: Path) -> Made:
    """merge_and_unload().save_pretrained of transformers 4.57: `dtype` beside the old rope keys, and the template in a
    file.
    """
    size = real_tokenizers.llama3(path, saved_by="4.57")
    config = llama3_config(size, dtype="bfloat16", tie_word_embeddings=True, transformers_version="4.57.6")
    write_json(path / "config.json", config)
    write_json(path / "generation_config.json", llama3_generation(config, "4.57.6"))
    write_safetensors(path, llama_state(config, torch.bfloat16), shards=2)
    (path / "README.md").write_text("---\nbase_model: meta-llama/Llama-3.2-1B-Instruct\nlibrary_name: peft\n---\n")
    return Made(path, path, str(path))


def trl_template(path: Path) -> Made:
    """What SFTTrainer leaves with transformers 5: its names in config.json, a template with {% generation %}, the
    pickle of its arguments, and the checkpoints on the way.
    """
    size = real_tokenizers.llama3(path, real_tokenizers.TRAINING, saved_by="5")
    config = llama3_config(size, dtype="float32", tie_word_embeddings=True, transformers_version="5.23.0")
    config |= {"pad_token_id": size - 7, "use_cache": False}
    config["rope_parameters"] = config.pop("rope_scaling") | {"rope_theta": config.pop("rope_theta")}
    write_json(path / "config.json", config)
    generation = llama3_generation(config, "5.23.0") | {"pad_token_id": size - 7}
    write_json(path / "generation_config.json", generation)
    write_safetensors(path, llama_state(config, torch.float32))
    torch.save({"learning_rate": 2e-5}, path / "training_args.bin")
    checkpoint = path / "checkpoint-10"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "training_args.bin"):
        shutil.copy(path / name, checkpoint)
    write_json(checkpoint / "trainer_state.json", {"epoch": 1.0, "global_step": 10})
    return Made(path, path, str(path))


def torchtune(path: Path) -> Made:
    """epoch_0 of a LoRA recipe: merged weights under the checkpointer's names, the adapter in two forms, and what it
    copied from the base model's folder.
    """
    size = real_tokenizers.llama3(path)
    config = llama3_config(size, tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.42.3")
    write_json(path / "config.json", config)
    write_json(path / "generation_config.json", llama3_generation(config, "4.42.3"))
    state = llama_state(config, torch.bfloat16)
    write_safetensors(path, state, shards=2)
    name = "model.layers.0.self_attn.q_proj"
    lora = {f"base_model.model.{name}.lora_A.weight": torch.zeros(8, 64), f"base_model.model.{name}.lora_B.weight":
            torch.zeros(64, 8)}  # fmt: skip
    save_file(lora, path / "adapter_model.safetensors", metadata={"format": "pt"})
    torch.save({"layers.0.attn.q_proj.lora_a.weight": torch.zeros(8, 64)}, path / "adapter_model.pt")
    write_json(path / "adapter_config.json", {
        "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA",
        "base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct",
    })  # fmt: skip
    write_json(path / "original_repo_id.json", {"repo_id": "meta-llama/Llama-3.1-8B-Instruct"})
    original = path / "original"
    original.mkdir()
    write_json(original / "params.json", {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "rope_theta": 5e5})
    (original / "orig_params.json").write_text("{}")
    return Made(path, path, str(path))


def orig_mod(path: Path) -> Made:
    """state_dict() of a compiled model, by torch.save, in a folder that is otherwise TinyLlama-Chat's."""
    plain = path.with_name(path.name + "-plain")
    plain.mkdir()
    size = real_tokenizers.tinyllama(plain)
    config = basic_config(size, num_key_value_heads=2, rope_theta=10000.0, tie_word_embeddings=False,
                          torch_dtype="float32", transformers_version="4.35.0")  # fmt: skip
    write_json(plain / "config.json", config)
    shutil.copytree(plain, path, dirs_exist_ok=True)
    state = llama_state(config, torch.float32)
    torch.save(state, plain / "pytorch_model.bin")
    torch.save({"_orig_mod." + name: weight for name, weight in state.items()}, path / "pytorch_model.bin")
    return Made(path, plain, str(plain))


def lfs_pointer(path: Path) -> None:
    """Puts git-lfs's pointer in a file's place, as a clone without git-lfs has it."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n")


def lfs_pointers(path: Path) -> Made:
    """A clone without git-lfs: weights and tokenizer.model are pointers, small files are there."""
    pulled = path.with_name(path.name + "-pulled")
    pulled.mkdir()
    llama2_with_added_tokens(pulled)
    shutil.copytree(pulled, path, dirs_exist_ok=True)
    for file in (*path.glob("*.safetensors"), path / "tokenizer.model"):
        lfs_pointer(file)
    return Made(path, pulled, str(pulled))


def hub_cache(path: Path) -> Made:
    """A snapshot in huggingface_hub's cache: every file is a link to a blob that is named by its hash."""
    entry = path / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    snapshot = entry / "snapshots" / COMMIT
    blobs = entry / "blobs"
    for folder in (snapshot, blobs, entry / "refs"):
        folder.mkdir(parents=True)
    (entry / "refs" / "main").write_text(COMMIT)
    smollm2(snapshot)
    for file in list(snapshot.iterdir()):
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        blob = blobs / (hashlib.sha256(content) if large else git).hexdigest()
        file.replace(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    return Made(snapshot, snapshot, str(snapshot))


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{GGUF_NAMES[stem]}.weight"
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[part]}.weight"


def gguf_alone(path: Path) -> Made:
    """What llama.cpp makes of a Llama 2 chat model, and nothing beside it: weights, tokenizer and template in one."""
    model = real_tokenizers.sentencepiece_model()
    scored = real_tokenizers.pieces(model)
    config = basic_config(len(scored), num_key_value_heads=2, rope_theta=10000.0, tie_word_embeddings=False)
    plain = path.with_name(path.name + "-plain")
    plain.mkdir()
    real_tokenizers.tinyllama(plain)  # of the same model; transformers 5 reads a GGUF's otherwise than 4 and llama.cpp
    state = llama_state(config, torch.float32)
    write_json(plain / "config.json", config | {"torch_dtype": "float32"})
    write_safetensors(plain, state)
    file = path / "llama-2-tiny-chat.F32.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    _gguf_metadata(writer, config)
    _gguf_vocabulary(writer, scored)
    for name, weight in state.items():
        rows = weight
        if "q_proj" in name or "k_proj" in name:  # llama.cpp's order of rotated pairs
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            rows = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(gguf_name(name), rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Made(path, plain, str(plain))


def _gguf_metadata(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_type("model")
    writer.add_name("Llama 2 Tiny Chat")
    writer.add_size_label("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _gguf_vocabulary(writer: gguf.GGUFWriter, scored: list[tuple[str, float, int]]) -> None:
    texts, scores, kinds = zip(*scored, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text in texts])
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(real_tokenizers.ZEPHYR)


MAKERS: dict[str, Callable[[Path], Made]] = {
    "Llama 2 with added tokens": llama2_with_added_tokens,
    "SmolLM2": smollm2,
    "Yi": yi,
    "peft merge": peft_merge,
    "trl template": trl_template,
    "GGUF alone": gguf_alone,
    "git-lfs pointers": lfs_pointers,
    "hub cache": hub_cache,
    "_orig_mod. dump": orig_mod,
    "torchtune": torchtune,
}
