"""`config.json` of any vintage <-> LlamaConfig.

transformers 4 wrote `rope_theta`, `rope_scaling` and `torch_dtype`; transformers 5 writes `rope_parameters`, which
includes theta, and `dtype`; the files of Llama 1 lack most fields. Both forms are written, since each reader knows one:
transformers 4 and mlx-lm would open a file of the new form only with theta 10000 and no scaling, without a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from llama_scratch.checkpoint import config_keys
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import ORIGINAL_CONTEXT_KEY, ConfigError, check
from llama_scratch.model.rotary import inverse_frequencies

# Keys of published files without effect on the mathematics: provenance, generation defaults, other libraries.
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
FLOATS = {"factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"}


# keys that are read, and those that are not worth a remark
KNOWN = HARMLESS | {field.name for field in fields(LlamaConfig)} | {"model_type", "torch_dtype"}
KNOWN |= {"rope_theta", "rope_scaling", ORIGINAL_CONTEXT_KEY}


def from_dict(raw: Mapping[str, Any], ignore: Collection[str] = ()) -> LlamaConfig:
    """Convert a parsed `config.json`, without the keys to ignore.

    Raises ConfigError for an invalid value, for an unsupported field that may change the mathematics, and if the old
    and the new name of a value disagree.
    """
    check("config.json", raw, "an object", lambda v: isinstance(v, Mapping))
    raw = config_keys.without(raw, KNOWN, ignore)
    check("model_type", raw.get("model_type", "llama"), "'llama'", lambda v: v == "llama")
    config_keys.refuse_unknown(raw, KNOWN)
    if raw.get("dtype") is None:
        raw["dtype"] = raw.get("torch_dtype")
    raw["rope_parameters"] = _rope_parameters(raw)
    values = {field.name: raw[field.name] for field in fields(LlamaConfig) if field.name in raw}
    return LlamaConfig(**{n: v for n, v in values.items() if not (v is None and n in NULL_MEANS_DEFAULT)})


def unused(raw: Mapping[str, Any]) -> list[str]:
    """List the unusual keys of a parsed `config.json` that have no effect on the mathematics."""
    return config_keys.unused(raw, KNOWN)


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the rotary keys like transformers, and refuse what that would lose."""
    outside = {name: raw[name] for name in ("rope_theta", "partial_rotary_factor") if name in raw}
    found = []
    for name in ("rope_scaling", "rope_parameters"):
        value = raw.get(name)
        check(name, value, "an object or null", lambda v: v is None or isinstance(v, Mapping))
        if value:
            found.append({"rope_theta": 10000.0} | outside | _one_name(value))
    _refuse_disagreement(found, raw)
    rope: dict[str, Any] = found[0] if found else _one_name(outside)
    if rope.get("partial_rotary_factor") in (1, None):
        rope.pop("partial_rotary_factor", None)
    if raw.get(ORIGINAL_CONTEXT_KEY) is not None and rope["rope_type"] in SCALED_FROM_A_LENGTH:
        rope[ORIGINAL_CONTEXT_KEY] = raw[ORIGINAL_CONTEXT_KEY]  # the outer key wins in transformers
    return rope


def _one_name(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rename `type` to `rope_type`, which takes precedence."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    return {name: value for name, value in rope.items() if name != "type"} | {"rope_type": kind}


def _refuse_disagreement(found: list[dict[str, Any]], raw: Mapping[str, Any]) -> None:
    """Raise ConfigError if transformers 4 and 5 would read different models."""
    theta = raw.get("rope_theta")
    inside = next((rope["rope_theta"] for rope in found if rope["rope_theta"] != theta), None)
    if theta is not None and inside is not None:
        raise ConfigError(
            f"rope_theta is {theta!r}, but {inside!r} in rope_parameters: transformers 4 reads the first "
            "and transformers 5 the second; remove one of them"
        )
    if len(found) == 2 and found[0] != found[1]:
        raise ConfigError(f"rope_scaling {found[0]} and rope_parameters {found[1]} disagree: remove one of them")


def to_dict(config: LlamaConfig) -> dict[str, Any]:
    """Content of `config.json`: transformers 5's names, and transformers 4's with the same values."""
    new = vars(config) | {"rope_parameters": _sharpened(config)}
    old = _old_names(new)
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | new | old


def _old_names(new: Mapping[str, Any]) -> dict[str, Any]:
    """Write the keys of transformers 4 and mlx-lm: theta outside, the rest in `rope_scaling`, null for the default
    type.

    transformers 4 warns of a factor that is not a float, and reads longrope's original length outside only.
    """
    rope = new["rope_parameters"]
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    for name in FLOATS & scaling.keys():
        scaling[name] = None if scaling[name] is None else float(scaling[name])
    outside = {ORIGINAL_CONTEXT_KEY: rope[ORIGINAL_CONTEXT_KEY]} if rope["rope_type"] == "longrope" else {}
    default = rope["rope_type"] == "default"
    named = {"rope_theta": rope["rope_theta"], "rope_scaling": None if default else scaling}
    return named | outside | {"torch_dtype": new["dtype"]}


def _sharpened(config: LlamaConfig) -> dict[str, Any]:
    """Add an attention factor to the rotary parameters if transformers 4 would infer another one.

    For longrope it uses the ratio of the two lengths as the factor, and ignores `factor`.
    """
    rope = config.rope_parameters
    if rope["rope_type"] != "longrope" or rope.get("attention_factor") is not None:
        return rope
    if rope.get("factor") in (None, config.max_position_embeddings / rope[ORIGINAL_CONTEXT_KEY]):
        return rope
    return rope | {"attention_factor": inverse_frequencies(config, 1)[1]}
