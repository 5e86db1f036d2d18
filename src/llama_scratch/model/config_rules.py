"""What the fields of a LlamaConfig may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llama_scratch.errors import LlamaScratchError


class ConfigError(LlamaScratchError, ValueError):
    """A configuration that cannot be honoured; the message names the field, the value found and the one expected."""


def check(name: str, value: Any, expected: str, holds: Callable[[Any], bool]) -> None:
    """Raises ConfigError unless the value holds what is expected of it."""
    if not holds(value):
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def is_int(value: Any) -> bool:
    """Whether it is a whole number that fits into 64 bits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: Any) -> bool:
    """Whether it is finite and not negative."""
    return (is_int(value) or isinstance(value, float)) and 0 <= value < float("inf")


POSITIVE = ("a positive integer", lambda v: is_int(v) and v > 0)
NUMBER = ("a finite number, not negative", is_number)
SHARE = ("a number from 0 to 1", lambda v: is_number(v) and v <= 1)
SWITCH = ("true or false", lambda v: isinstance(v, bool))
TOKEN = ("an integer or null", lambda v: v is None or is_int(v))
TOKENS = ("an integer, a list of integers or null",
          lambda v: v is None or is_int(v) or (isinstance(v, list) and all(map(is_int, v))))  # fmt: skip


def one_of(*choices: Any) -> tuple[str, Callable[[Any], bool]]:
    """The rule that a value is one of these."""
    return f"one of {list(choices)}", lambda v: v in list(choices)


RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "vocab_size": POSITIVE,
    "hidden_size": POSITIVE,
    "intermediate_size": POSITIVE,
    "num_hidden_layers": POSITIVE,
    "num_attention_heads": POSITIVE,
    "num_key_value_heads": POSITIVE,
    "head_dim": ("an even positive integer: rotary turns pairs of channels", lambda v: is_int(v) and v > 0 == v % 2),
    "hidden_act": one_of("silu", "gelu", "gelu_pytorch_tanh", "relu"),
    "max_position_embeddings": POSITIVE,
    "initializer_range": SHARE,
    "rms_norm_eps": NUMBER,
    "attention_bias": SWITCH,
    "attention_dropout": SHARE,
    "mlp_bias": SWITCH,
    "tie_word_embeddings": SWITCH,
    "pad_token_id": TOKEN,
    "bos_token_id": TOKENS,
    "eos_token_id": TOKENS,
    "dtype": one_of(None, "float32", "bfloat16", "float16", "float64"),
}


def check_heads(N: Any, G: Any, D: Any) -> None:
    """The rules that the defaults of head_dim and num_key_value_heads are computed by."""
    check("num_attention_heads", N, *POSITIVE)
    check("hidden_size", D, *POSITIVE)
    check("hidden_size", D, f"a multiple of num_attention_heads = {N}", lambda v: v % N == 0)
    if G is not None:
        check("num_key_value_heads", G, *POSITIVE)
        check("num_attention_heads", N, f"a multiple of num_key_value_heads = {G}", lambda v: v % G == 0)


def check_fields(values: Mapping[str, Any]) -> None:
    """Every field by its rule."""
    for name, rule in RULES.items():
        check(name, values[name], *rule)
    check_pad(values["pad_token_id"], values["vocab_size"])


# What may change after a model is built: ids to stop at and to fill with, and what is only kept for other programs.
ASSIGNABLE = ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache", "pretraining_tp", "dtype")


def check_assignment(values: Mapping[str, Any], name: str, value: Any) -> None:
    """Raises ConfigError for a field that modules have been built from, and for a bad value of another."""
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
    """The padding token is one of the vocabulary, or counted from its end, as torch takes it."""
    check("pad_token_id", pad, f"an id below vocab_size = {V}", lambda v: v is None or -V <= v < V)


LENGTH = "original_max_position_embeddings"
# rope_type -> its keys beside rope_type; "?" marks those that may be absent.
ROPE_KEYS = {
    "default": "rope_theta",
    "linear": "rope_theta factor",
    "dynamic": "rope_theta factor",
    "yarn": f"rope_theta factor {LENGTH} attention_factor? beta_fast? beta_slow? mscale? mscale_all_dim? truncate? "
    "finetuned?",
    "longrope": f"rope_theta short_factor long_factor {LENGTH} attention_factor? factor?",
    "llama3": f"rope_theta factor low_freq_factor high_freq_factor {LENGTH}",
}


def rope_parameters(parameters: Any, head_dim: int, max_position_embeddings: int) -> dict[str, Any]:
    """The parameters with type and theta filled in, every key known and every value of the right kind."""
    check("rope_parameters", parameters, "an object or null", lambda v: isinstance(v, Mapping))
    rope, half = dict(parameters), head_dim // 2
    older = rope.pop("type", None)
    rope = {"rope_theta": 10000.0, "rope_type": older or "default"} | rope
    check("rope_type", rope["rope_type"], *one_of(*ROPE_KEYS))
    keys = ROPE_KEYS[rope["rope_type"]].split()
    if LENGTH in keys:
        rope.setdefault(LENGTH, max_position_embeddings)  # as transformers fills it
    where = f"rope_parameters of type {rope['rope_type']!r}: "
    for key in keys:
        name = key.rstrip("?")
        if name in ("short_factor", "long_factor"):
            check(where + name, rope.get(name), f"{half} numbers, head_dim / 2",
                  lambda v: isinstance(v, list) and len(v) == half and all(map(is_number, v)))  # fmt: skip
        elif name in rope or key == name:
            rule = SWITCH if name in ("truncate", "finetuned") else NUMBER
            check(where + name, rope.get(name), rule[0], lambda v, k=key, r=rule: ("?" in k and v is None) or r[1](v))
    for name in sorted(rope.keys() - {"rope_type", *(key.rstrip("?") for key in keys)}):
        if not _says_nothing(name, rope, max_position_embeddings):
            expected = "absent: this type has no such key; remove it if it is a leftover, or load without it"
            check(where + name, rope.pop(name), f"{expected}: --ignore rope_scaling.{name}", lambda _: False)
        rope.pop(name)
    return rope


def _says_nothing(name: str, rope: Mapping[str, Any], longest: int) -> bool:
    """Whether a key that the type has no use for asks for nothing else than the type does."""
    value = rope[name]
    if name == LENGTH:  # nothing is computed from it, here and in transformers; others stretch dynamic's from there
        return value is None or rope["rope_type"] != "dynamic" or value == longest
    return not value or (name in ("factor", "attn_factor", "extrapolation_factor") and value == 1)
