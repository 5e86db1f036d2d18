"""The keys of a configuration that a Llama does not read: those that cannot change the mathematics, and others.

transformers keeps any key and, for a Llama, uses none of these. Some are bookkeeping: provenance, hints for other
tools, lengths and tokens of the tokenizer. Others describe another computation, for instance `sliding_window`; a model
that ignored them would differ from its author's. Those are refused by name, unless their value describes what a Llama
does. An unknown key is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from llama_scratch.model.config_rules import ConfigError

WINDOWS = ("sliding_window", "max_window_layers")  # Qwen's, without effect if use_sliding_window is false
ROTARY = ("rope_scaling", "rope_parameters")
# Names of keys for bookkeeping.
_BOOKKEEPING = re.compile(
    r"""_.* | (\w*transformers|torch|library|model|peft|trl|config|format)_version
    | .*\.js_config | unsloth_.* | mergekit_.* | merge_(method|config) | tokenizer_.* | wandb_.*
    | (bos|eos|pad|unk|sep|cls|mask|eod|image|user|assistant)_token(_id|_ids|_index)?
    | (use_|enable_)?(flash_?attn|flash_attention|fused_\w+|sdpa|xformers)(_2|_3|_v2|_enabled)?
    | (use_)?(gradient_checkpointing|recompute|sequence_parallel)(_\w+)? | (tensor|pipeline)_\w*parallel\w*
    | keys_to_ignore_at_inference | cache_implementation | generation_config | language | languages | license(_\w+)?
    | library_name | pipeline_tag | tags | datasets | metrics | base_model(_\w+)? | (pretrained_)?model_name(_or_path)?
    | name_or_path | name | author | url | date | description | dataset\w* | train\w*_(steps|tokens|args|data)
    | (model_)?(max|min)_(sequence_|seq_)?len(gth)? | max_seq_length | seq_len | seq_length | sequence_length
    | batch_size | max_batch_size | seed | use_return_dict | output_router_logits | dropout | hidden_dropout
    | (hidden|resid|embd|attn|classifier)_(pdrop|dropout)(_prob)? | classifier_dropout | initializer\w*
    | cross_attention_hidden_size | add_cross_attention | is_decoder | tie_encoder_decoder | tf_legacy_loss
    | low_memory | offload\w* | device(_map)? | kv_cache_dtype""",
    re.VERBOSE,
)


def _is_one(value: Any) -> bool:
    return value == 1


def _is_full(value: Any) -> bool:
    return value == "full_attention" or (isinstance(value, list) and set(value) <= {"full_attention"})


# Keys of other computations -> test for a value that describes a Llama.
_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        """embedding_multiplier residual_multiplier logits_scaling logit_scale logits_scale
        scale_emb embedding_scale residual_scale rope_ratio rotary_pct rope_pct partial_rotary_factor num_experts
        num_local_experts expert_count rope_scaling_factor""".split(),
        _is_one,
    ),
    "layer_types": _is_full,
    "attention_type": _is_full,
    "norm_type": lambda v: v in ("rmsnorm", "rms_norm", "RMSNorm"),
    "normalization_type": lambda v: v in ("rmsnorm", "rms_norm", "RMSNorm", "RMS"),
    "position_embedding_type": lambda v: v in ("rope", "rotary"),
    "use_rope": bool,
    "use_rotary": bool,
    "no_bias": bool,
    "is_causal": bool,
    "causal": bool,
}


def is_bookkeeping(name: str) -> bool:
    """Return True for the name of a key that has no effect on the mathematics, whatever its value."""
    return _BOOKKEEPING.fullmatch(name) is not None


def is_neutral(name: str, value: Any) -> bool:
    """Return True if the value of a key of another computation describes what a Llama does."""
    return not value or (name in _NEUTRAL and _NEUTRAL[name](value))


def unused(values: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """List the keys that have a value, but no effect here, because they are bookkeeping or neutral."""
    names = [name for name in values if name not in known and values[name]]
    return sorted(name for name in names if is_bookkeeping(name) or is_neutral(name, values[name]))


def refuse_unknown(values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ConfigError naming every key that might change the mathematics, and what to do."""
    off = WINDOWS if values.get("use_sliding_window") is False else ()
    names = [name for name in values if name not in (*known, *off) and not is_neutral(name, values[name])]
    names = sorted(name for name in names if not is_bookkeeping(name))
    if names:
        listed = "; ".join(f"{name} is {_shown(values[name])}" for name in names)
        flags = " ".join(f"--ignore {name}" for name in names)
        raise ConfigError(f"{listed}, expected absent: {REMEDY.format(flags)}")


REMEDY = (
    "this model does not support it, and it may change the mathematics; remove it if it is a leftover, "
    "or load without it, as transformers does: {}"
)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"


def without(values: Mapping[str, Any], known: Collection[str], ignore: Collection[str]) -> dict[str, Any]:
    """Drop the keys to ignore; `rope_scaling.KEY` is a key of the rotary object, under either of its names.

    Raises ConfigError for a key that does not exist, or that the model reads.
    """
    left = dict(values)
    for name in ignore:
        if name in known:
            raise ConfigError(f"--ignore {name}: the model reads it, expected a key that it does not know")
        inner = name.removeprefix("rope_scaling.")
        objects = [n for n in ROTARY if inner != name and isinstance(left.get(n), Mapping) and inner in left[n]]
        if name not in left and not objects:
            raise ConfigError(f"--ignore {name}: there is no such key, expected one of {sorted(left)}")
        left.pop(name, None)
        for outer in objects:
            left[outer] = {key: value for key, value in left[outer].items() if key != inner}
    return left
