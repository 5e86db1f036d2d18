"""What the fields of a LlamaConfig may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llama_scratch.errors import LlamaScratchError

Rule = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and its test


class ConfigError(LlamaScratchError, ValueError):
    """An invalid configuration; the message names the field, its value and what is expected."""


def check(name: str, value: Any, expected: str, holds: Callable[[Any], bool]) -> None:
    """Raise ConfigError unless `holds(value)`."""
    if not holds(value):
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def is_int(value: Any) -> bool:
    """Return True for an integer in the signed 64-bit range; booleans do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_nonnegative(value: Any) -> bool:
    """Return True for a finite number of at least 0; booleans do not count."""
    return (is_int(value) or isinstance(value, float)) and 0 <= value < float("inf")


def is_positive_int(value: Any) -> bool:
    """Return True for an integer of at least 1 in the signed 64-bit range."""
    return is_int(value) and value > 0


def is_list_of(holds: Callable[[Any], bool], value: Any) -> bool:
    """Return True for a list whose items all satisfy `holds`."""
    return isinstance(value, list) and all(map(holds, value))


POSITIVE: Rule = ("a positive integer", is_positive_int)
NONNEGATIVE: Rule = ("a finite number, not negative", is_nonnegative)
FRACTION: Rule = ("a number from 0 to 1", lambda v: is_nonnegative(v) and v <= 1)
BOOL: Rule = ("true or false", lambda v: isinstance(v, bool))
TOKEN: Rule = ("an integer or null", lambda v: v is None or is_int(v))
TOKENS: Rule = (
    "an integer, a list of integers or null",
    lambda v: v is None or is_int(v) or is_list_of(is_int, v),
)


def one_of(*choices: Any) -> Rule:
    """Return the rule that a value is one of these."""
    return f"one of {list(choices)}", lambda v: v in list(choices)


RULES: dict[str, Rule] = {
    "vocab_size": POSITIVE,
    "hidden_size": POSITIVE,
    "intermediate_size": POSITIVE,
    "num_hidden_layers": POSITIVE,
    "num_attention_heads": POSITIVE,
    "num_key_value_heads": POSITIVE,
    "head_dim": (
        "an even positive integer: rotary turns pairs of channels",
        lambda v: is_positive_int(v) and v % 2 == 0,
    ),
    "hidden_act": one_of("silu", "gelu", "gelu_pytorch_tanh", "relu"),
    "max_position_embeddings": POSITIVE,
    "initializer_range": FRACTION,
    "rms_norm_eps": NONNEGATIVE,
    "attention_bias": BOOL,
    "attention_dropout": FRACTION,
    "mlp_bias": BOOL,
    "tie_word_embeddings": BOOL,
    "pad_token_id": TOKEN,
    "bos_token_id": TOKENS,
    "eos_token_id": TOKENS,
    "dtype": one_of(None, "float32", "bfloat16", "float16", "float64"),
}


def check_heads(N: Any, G: Any, D: Any) -> None:
    """Check the fields from which head_dim and num_key_value_heads are derived."""
    check("num_attention_heads", N, *POSITIVE)
    check("hidden_size", D, *POSITIVE)
    check("hidden_size", D, f"a multiple of num_attention_heads = {N}", lambda v: v % N == 0)
    if G is not None:
        check("num_key_value_heads", G, *POSITIVE)
        check(
            "num_attention_heads",
            N,
            f"a multiple of num_key_value_heads = {G}",
            lambda v: v % G == 0,
        )


def check_fields(values: Mapping[str, Any]) -> None:
    """Check every field by its rule."""
    for name, rule in RULES.items():
        check(name, values[name], *rule)
    check_pad(values["pad_token_id"], values["vocab_size"])


# What may change after a model is built: ids to stop at and to fill with, and what is only kept
# for other programs.
ASSIGNABLE = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "use_cache",
    "pretraining_tp",
    "dtype",
)


def check_assignment(values: Mapping[str, Any], name: str, value: Any) -> None:
    """Raise ConfigError for a field that modules are built from, or a bad value of another."""
    if name not in values:
        raise ConfigError(f"{name} is not a field of LlamaConfig: it has {', '.join(values)}")
    if name not in ASSIGNABLE and value != values[name]:
        found = f"{name} is {values[name]!r} and cannot become {value!r}: a model is built from it"
        raise ConfigError(f"{found}; make another with dataclasses.replace(config, {name}=...)")
    if name in RULES:
        check(name, value, *RULES[name])
    if name == "pad_token_id":
        check_pad(value, values["vocab_size"])


def check_pad(pad: Any, V: int) -> None:
    """Check that the padding token is in the vocabulary; negative ids count from its end."""
    check("pad_token_id", pad, f"an id below vocab_size = {V}", lambda v: v is None or -V <= v < V)


ORIGINAL_CONTEXT_KEY = "original_max_position_embeddings"
# rope_type -> its keys besides rope_type; "?" marks those that may be absent.
ROPE_KEYS = {
    "default": "rope_theta",
    "linear": "rope_theta factor",
    "dynamic": "rope_theta factor",
    "yarn": f"rope_theta factor {ORIGINAL_CONTEXT_KEY} attention_factor? beta_fast? beta_slow? "
    "mscale? mscale_all_dim? truncate? finetuned?",
    "longrope": f"rope_theta short_factor long_factor {ORIGINAL_CONTEXT_KEY} attention_factor? "
    "factor?",
    "llama3": f"rope_theta factor low_freq_factor high_freq_factor {ORIGINAL_CONTEXT_KEY}",
}


def rope_parameters(parameters: Any, head_dim: int, max_position_embeddings: int) -> dict[str, Any]:
    """Return the parameters with type and theta filled in, once every key and value is checked."""
    check("rope_parameters", parameters, "an object or null", lambda v: isinstance(v, Mapping))
    rope = dict(parameters)
    older = rope.pop("type", None)
    rope = {"rope_theta": 10000.0, "rope_type": older or "default"} | rope
    check("rope_type", rope["rope_type"], *one_of(*ROPE_KEYS))
    keys = ROPE_KEYS[rope["rope_type"]].split()
    if ORIGINAL_CONTEXT_KEY in keys:
        rope.setdefault(ORIGINAL_CONTEXT_KEY, max_position_embeddings)  # as transformers fills it
    prefix = f"rope_parameters of type {rope['rope_type']!r}: "
    for key in keys:
        name = key.rstrip("?")
        if name in rope or key == name:
            check(prefix + name, rope.get(name), *_rope_rule(key, head_dim // 2))
    known = {"rope_type", *(key.rstrip("?") for key in keys)}
    for name in sorted(rope.keys() - known):
        value = rope[name]
        if not _is_harmless(name, rope, max_position_embeddings):
            expected = "absent: this type has no such key; remove it if it is a leftover"
            remedy = f"or load without it: --ignore rope_scaling.{name}"
            raise ConfigError(f"{prefix}{name} is {value!r}, expected {expected}, {remedy}")
        del rope[name]
    return rope


def _rope_rule(key: str, half: int) -> Rule:
    """Return what the value of a key of ROPE_KEYS must be; `half` is head_dim / 2."""
    name = key.rstrip("?")
    if name in ("short_factor", "long_factor"):
        expected = f"{half} numbers, head_dim / 2"
        return expected, lambda v: is_list_of(is_nonnegative, v) and len(v) == half
    expected, holds = BOOL if name in ("truncate", "finetuned") else NONNEGATIVE
    return expected, lambda v: (v is None and key != name) or holds(v)


def _is_harmless(name: str, rope: Mapping[str, Any], longest: int) -> bool:
    """Return True if a key that the type does not use changes nothing."""
    value = rope[name]
    if name == ORIGINAL_CONTEXT_KEY:
        # not read here or in transformers, but other programs stretch dynamic from that length
        return value is None or rope["rope_type"] != "dynamic" or value == longest
    return not value or (name in ("factor", "attn_factor", "extrapolation_factor") and value == 1)
