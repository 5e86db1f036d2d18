r"""params.json, Meta's configuration, -> LlamaConfig.

The width of the feed-forward layer is not stored as such:

    F = multiple_of ⌈⌊ffn_dim_multiplier ⌊8 dim / 3⌋⌋ / multiple_of⌉

The file does not say which Llama it is, on which the context length, the factor of scaled rotary and the special ids
depend. That is inferred: scaled rotary means 3.2 if the head is tied and else 3.1, a vocabulary of 128000 or more means
3, an epsilon of 1e-6 means 1, and anything else 2. `llama_version` overrides it. Llama 1 and 2 with a theta above 10000
are Code Llama.

meta-llama/llama, model.py: ModelArgs, FeedForward; transformers, convert_llama_weights_to_hf.py, for the contexts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint import config_keys
from llama_scratch.checkpoint.files import CheckpointError, read_json
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import (
    BOOL,
    NONNEGATIVE,
    POSITIVE,
    ConfigError,
    check,
    is_int,
    is_nonnegative,
    one_of,
)

PARAMS = "params.json"
CONTEXT = {"1": 2048, "2": 4096, "3": 8192, "3.1": 131072, "3.2": 131072}
FACTOR = {"3.1": 8.0, "3.2": 32.0}
RULES = {
    "dim": POSITIVE,
    "n_layers": POSITIVE,
    "n_heads": POSITIVE,
    "n_kv_heads": ("a positive integer or null", lambda v: v is None or POSITIVE[1](v)),
    "vocab_size": ("an integer", is_int),  # -1 in Llama 2: the rows of the embedding
    "multiple_of": POSITIVE,
    "ffn_dim_multiplier": (
        "a number above 0 or null",
        lambda v: v is None or (is_nonnegative(v) and v != 0 and v < 2**20),
    ),
    "norm_eps": NONNEGATIVE,
    "rope_theta": NONNEGATIVE,
    "use_scaled_rope": BOOL,
    "max_seq_len": POSITIVE,
    "max_batch_size": POSITIVE,  # a setting of the program that ran it
}
DEFAULTS = {
    "n_kv_heads": None,
    "vocab_size": -1,
    "ffn_dim_multiplier": None,
    "rope_theta": 10000.0,
    "use_scaled_rope": False,
}


def read_params(path: Path, ignore: Collection[str] = ()) -> dict[str, Any]:
    """Read params.json with its defaults. Raises CheckpointError for an invalid value, or an unknown key in use."""
    params = read_json(path)
    try:
        check(path.name, params, "an object", lambda v: isinstance(v, dict))
        params = DEFAULTS | config_keys.without(params, RULES, ignore)
        for name, rule in RULES.items():
            if name in params or not name.startswith("max_"):
                check(name, params.get(name), *rule)
        config_keys.refuse_unknown(params, RULES)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return dict(params)


def feed_forward_size(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Compute F by the formula above."""
    size = 8 * dim // 3
    if multiplier is not None:
        size = int(multiplier * size)
    return multiple_of * -(-size // multiple_of)


def to_config(params: Mapping[str, Any], vocab_size: int, tied: bool, llama_version: str | None) -> LlamaConfig:
    """Convert to a LlamaConfig. Raises ConfigError for an invalid value."""
    expected = f"{vocab_size}, the rows of the embedding, or -1"
    check("vocab_size", params["vocab_size"], expected, lambda v: v in (vocab_size, -1))
    version = llama_version or infer_version(params, vocab_size, tied)
    check("llama_version", version, *one_of(*CONTEXT))
    rope = {"rope_type": "default", "rope_theta": params["rope_theta"]}
    if params["use_scaled_rope"]:
        check("llama_version", version, "3.1 or 3.2, which have scaled rotary", lambda v: v in FACTOR)
        rope |= {"rope_type": "llama3", "factor": FACTOR[version], "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 8192}
    code_llama = params["rope_theta"] > 10000 and version in ("1", "2")
    three = version.startswith("3")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=params["dim"],
        intermediate_size=feed_forward_size(params["dim"], params["multiple_of"], params["ffn_dim_multiplier"]),
        num_hidden_layers=params["n_layers"],
        num_attention_heads=params["n_heads"],
        num_key_value_heads=params["n_kv_heads"],
        max_position_embeddings=params.get("max_seq_len", 16384 if code_llama else CONTEXT[version]),
        rms_norm_eps=params["norm_eps"],
        rope_parameters=rope,
        tie_word_embeddings=tied,
        bos_token_id=128000 if three else 1,
        eos_token_id=[128001, 128008, 128009] if three else 2,  # end of text, of message, of turn
    )


def infer_version(params: Mapping[str, Any], vocab_size: int, tied: bool) -> str:
    """Infer which Llama it is, by the rules above."""
    if params["use_scaled_rope"]:
        return "3.2" if tied else "3.1"
    if vocab_size >= 128000:
        return "3"
    return "1" if params["norm_eps"] == 1e-6 else "2"
