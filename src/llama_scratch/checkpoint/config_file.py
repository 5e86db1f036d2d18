"""`config.json` of any vintage <-> LlamaConfig.

transformers 4 wrote `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes `rope_parameters`, with theta
inside, and `dtype`; the files of Llama 1 leave out most fields. What is written is transformers 5's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ConfigError, check

# Keys of published files that say nothing about the mathematics: provenance, generation defaults, other libraries.
HARMLESS = frozenset(
    """architectures transformers_version _name_or_path _from_model_config return_dict output_hidden_states
    output_attentions torchscript use_bfloat16 pruned_heads chunk_size_feed_forward id2label label2id num_labels
    problem_type finetuning_task task_specific_params tokenizer_class prefix sep_token_id decoder_start_token_id
    is_llama_config max_sequence_length unsloth_fixed unsloth_version attn_implementation _attn_implementation
    _attn_implementation_autoset max_length min_length max_new_tokens do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p min_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens""".split()
)
NULL_MEANS_DEFAULT = ("num_key_value_heads", "head_dim", "attention_dropout", "rope_parameters")
SCALED_FROM_A_LENGTH = ("llama3", "yarn", "longrope")


def from_dict(raw: Mapping[str, Any]) -> LlamaConfig:
    """The configuration in a parsed `config.json`.

    Raises ConfigError for a bad value, and by name for a field that would change the mathematics and is not supported:
    every unknown one that is not null, false, 0 or empty.
    """
    check("config.json", raw, "an object", lambda v: isinstance(v, Mapping))
    raw = {name: value for name, value in raw.items() if name not in HARMLESS}
    check("model_type", raw.pop("model_type", "llama"), "'llama'", lambda v: v == "llama")
    older_dtype = raw.pop("torch_dtype", None)
    if raw.get("dtype") is None:
        raw["dtype"] = older_dtype
    raw["rope_parameters"] = _rope_parameters(raw)
    known = {field.name for field in fields(LlamaConfig)}
    for name in sorted(raw.keys() - known):
        check(name, raw.pop(name), "absent: this model does not support it", lambda v: not v)
    return LlamaConfig(**{n: v for n, v in raw.items() if not (v is None and n in NULL_MEANS_DEFAULT)})


def _rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """Takes every rotary key out of `raw` and merges them as transformers does, refusing what that would lose."""
    outside: dict[str, Any] = {name: raw.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in raw}
    original = raw.pop("original_max_position_embeddings", None)
    found = []
    for name in ("rope_scaling", "rope_parameters"):
        value = raw.pop(name, None)
        check(name, value, "an object or null", lambda v: v is None or isinstance(v, Mapping))
        if value:
            found.append({"rope_theta": 10000.0} | outside | dict(value))
    if len(found) == 2 and found[0] != found[1]:
        raise ConfigError(f"rope_scaling {found[0]} and rope_parameters {found[1]} disagree: remove one of them")
    rope: dict[str, Any] = found[0] if found else outside
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    rope.pop("type", None)
    if rope.get("partial_rotary_factor") in (1, None):
        rope.pop("partial_rotary_factor", None)
    if original is not None and rope["rope_type"] in SCALED_FROM_A_LENGTH:
        rope["original_max_position_embeddings"] = original  # the outer key wins in transformers
    return rope


def to_dict(config: LlamaConfig) -> dict[str, Any]:
    """What transformers 5 reads from and writes to `config.json`."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | vars(config)
