"""The keys of a GGUF file that describe its model -> LlamaConfig.

Context, sizes, epsilon and theta are numbers, float32 unless they are integers. Llama 3's scaled rotary is not among
them: the file has the factor of each frequency, `rope_freqs.weight`, which is compared with the factors of Llama 3's
parameters.

ggml-org/llama.cpp, convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from llama_scratch.checkpoint import config_keys
from llama_scratch.checkpoint.matching import EMBEDDING, HEAD
from llama_scratch.checkpoint.weight_files import Weight
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.config_rules import check, is_int
from llama_scratch.model.rotary import inverse_frequencies

FACTORS = "rope_freqs.weight"
CLOSE = 1e-4  # relative error of factors: llama.cpp's are rounded, and computed in another order
# supported keys of the architecture; any other key in use would change the mathematics
KNOWN = frozenset(
    """block_count context_length embedding_length feed_forward_length attention.head_count attention.head_count_kv
    attention.layer_norm_rms_epsilon attention.key_length attention.value_length rope.dimension_count rope.freq_base
    rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned
    rope.scale_linear rope.scaling.attn_factor tensor_data_layout vocab_size""".split()
)
# other keys, with the value that describes a Llama
NEUTRAL = {
    "attention.causal": True,
    "attention.scale": 0.0,
    "embedding_scale": 1.0,
    "expert_count": 0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scaling.yarn_ext_factor": 0.0,
}
LAYOUT = "Meta AI original pth"  # rows of W_q and W_k in Meta's order, as every Llama's are in this format
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
STOPS = ("eos", "eot", "eom")


def to_config(
    values: dict[str, Any], weights: dict[str, Weight], factors: Tensor | None, ignore: Collection[str] = ()
) -> LlamaConfig:
    """Convert to a LlamaConfig, without the keys to ignore.

    Raises ConfigError for an invalid value, and KeyError for a missing key.
    """
    check("general.architecture", values.get("general.architecture"), "'llama'", lambda v: v == "llama")
    check("split.count", values.get("split.count"), "1: put the parts together first", lambda v: v in (None, 0, 1))
    values = _supported(values, ignore)
    head_dim: Any = values.get("llama.attention.key_length")
    config = LlamaConfig(
        vocab_size=weights[EMBEDDING].shape[0],
        hidden_size=values["llama.embedding_length"],
        intermediate_size=_alike(values, "llama.feed_forward_length"),
        num_hidden_layers=values["llama.block_count"],
        num_attention_heads=_alike(values, "llama.attention.head_count"),
        num_key_value_heads=_alike(values, "llama.attention.head_count_kv", None),
        head_dim=head_dim,
        max_position_embeddings=values["llama.context_length"],
        rms_norm_eps=_short(values["llama.attention.layer_norm_rms_epsilon"]),
        attention_bias=any(key.endswith("_proj.bias") and ".self_attn." in key for key in weights),
        mlp_bias=any(key.endswith("_proj.bias") and ".mlp." in key for key in weights),
        tie_word_embeddings=HEAD not in weights,
        bos_token_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=_stop_ids(values),
        pad_token_id=values.get("tokenizer.ggml.padding_token_id"),
    )
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        check(name, values.get(name), f"{config.head_dim}, a whole head", lambda v: v in (None, config.head_dim))
    return dataclasses.replace(config, rope_parameters=_rope(values, config, factors))


def _supported(values: dict[str, Any], ignore: Collection[str]) -> dict[str, Any]:
    """Drop the keys to ignore. Raises ConfigError naming those that might change the mathematics."""
    known = {f"llama.{name}" for name in KNOWN}
    values = config_keys.without(values, known, ignore)
    neutral = {f"llama.{name}": value for name, value in NEUTRAL.items()}
    said = {n: v for n, v in values.items() if n.startswith("llama.") and not (n in neutral and v == neutral[n])}
    config_keys.refuse_unknown(said, known)
    expected = f"{LAYOUT!r}: the order of the rows of W_q and W_k"
    check("llama.tensor_data_layout", values.get("llama.tensor_data_layout"), expected, lambda v: v in (None, LAYOUT))
    return values


def _alike(values: dict[str, Any], name: str, *default: Any) -> Any:
    """Read a number that is stored once, or once per layer with equal values."""
    value = values.get(name, *default) if default else values[name]
    if isinstance(value, list) and value:
        check(name, value, "the same in every layer", lambda v: len(set(v)) == 1)
        return value[0]
    return value


def _short(number: Any) -> Any:
    """Shortest decimal of a float32: 1e-05 and not 9.999999747378752e-06."""
    if not isinstance(number, float) or not math.isfinite(number):
        return number
    return next(
        v for v in (float(f"{number:.{digits}g}") for digits in range(6, 18)) if _float32(v) == _float32(number)
    )


def _float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


def _stop_ids(values: dict[str, Any]) -> int | list[int] | None:
    stored = [values.get(f"tokenizer.ggml.{name}_token_id") for name in STOPS]
    ids = list(dict.fromkeys(i for i in stored if i is not None))
    check("tokenizer.ggml.eos_token_id", ids, "integers", lambda v: all(map(is_int, v)))
    if not ids:
        return None
    return ids if len(ids) > 1 else ids[0]


def _rope(values: dict[str, Any], config: LlamaConfig, factors: Tensor | None) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": _short(values.get("llama.rope.freq_base", 10000.0))}
    kind = values.get("llama.rope.scaling.type", "linear")  # llama.cpp's default
    check("llama.rope.scaling.type", kind, "'none' or 'linear'", lambda v: v in ("none", "linear"))
    sharpening = values.get("llama.rope.scaling.attn_factor")
    check("llama.rope.scaling.attn_factor", sharpening, "1.0: only yarn has another", lambda v: v in (None, 0, 1))
    older = values.get("llama.rope.scale_linear", 1.0)
    factor = _short(values.get("llama.rope.scaling.factor", older)) if kind == "linear" else 1.0
    if factor not in (0, 1):
        rope |= {"rope_type": "linear", "factor": factor}
    if factors is None:
        return rope
    check("llama.rope.scaling.factor", factor, f"1.0 together with {FACTORS}", lambda v: v in (0, 1))
    return _llama3(rope, config, factors)


def _llama3(rope: dict[str, Any], config: LlamaConfig, factors: Tensor) -> dict[str, Any]:
    """Find the parameters of scaled rotary with these factors: every Llama has the same, except for `factor`.

    If no frequency is scaled, as in a small head with high frequencies only, rotary is not scaled. Raises ConfigError
    if no parameters give these factors.
    """
    finite = factors.shape == (config.head_dim // 2,) and bool(torch.isfinite(factors).all())
    check(FACTORS, finite, f"{config.head_dim // 2} finite numbers", bool)
    if bool(((factors - 1).abs() < CLOSE).all()):
        return rope
    plain, _ = inverse_frequencies(dataclasses.replace(config, rope_parameters=rope), 1)
    for factor in _possible_factors(plain, factors):
        scaled = rope | LLAMA3 | {"factor": factor}
        wanted, _ = inverse_frequencies(dataclasses.replace(config, rope_parameters=scaled), 1)
        if bool(((plain / wanted / factors.to(plain) - 1).abs() < CLOSE).all()):
            return scaled
    check(FACTORS, factors.tolist()[:4], "the factors of Llama 3's scaled rotary", lambda _: False)
    return rope


def _possible_factors(plain: Tensor, factors: Tensor) -> list[float]:
    """List candidates for `factor`: the largest stored one, or, if its frequency is in the blended band, its solution.

    There 1 / f = (1 − blend) / factor + blend, which is solved for the factor: rounded, and as it is.
    """
    place = int(factors.argmax())
    largest = _short(factors[place].item())
    turns = LLAMA3["original_max_position_embeddings"] * plain[place].item() / (2 * math.pi)
    blend = (turns - LLAMA3["low_freq_factor"]) / (LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"])
    if blend <= 0 or largest <= 1 or blend * largest >= 1:
        return [largest] if largest > 0 else []
    solved = (1 - blend) / (1 / largest - blend)
    return [float(round(solved)) or solved, solved]
