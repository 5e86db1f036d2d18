"""What a Llama can be asked: the features that it has, stated by its adapter or found by asking.

An adapter states them as SUPPORTS, a dictionary whose keys are the fields of Profile:

    SUPPORTS = {"attention_bias": False, "mlp_bias": False, "rope_type": ["default"], "padding": False}

What is not stated is found (questions.finding): a feature is lacking where asking for it raises NotImplementedError.
A model that takes biases and ignores them is wrong, and so is one that raises anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

# Of each, the hardest first: the one that the hard case has where the profile allows it.
ROPE_TYPES = ("llama3", "yarn", "longrope", "dynamic", "linear", "default")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")
DTYPES = ("float32", "bfloat16", "float16")
PARTS = ("rms_norm", "rotary", "attention", "swiglu", "block")


@dataclass(frozen=True)
class Profile:
    """The features of a Llama. Where they are fields of a configuration, they carry their names."""

    attention_bias: bool = True
    """q_proj, k_proj, v_proj and o_proj may have biases."""
    mlp_bias: bool = True
    """gate_proj, up_proj and down_proj may have biases."""
    head_dim: bool = True
    """The head_dim may be unlike hidden_size / num_attention_heads."""
    num_key_value_heads: bool = True
    """There may be fewer heads of keys and values than of queries."""
    tie_word_embeddings: bool = True
    """The head may be the embedding."""
    hidden_act: tuple[str, ...] = ACTIVATIONS
    rope_type: tuple[str, ...] = ROPE_TYPES
    dtype: tuple[str, ...] = DTYPES
    padding: bool = True
    """There may be a mask, and rows that are padded."""
    positions: bool = True
    """Positions may be given: any, each row its own. Without it they are 0, 1, 2, ... in every row."""
    batch: bool = True
    """There may be several rows."""
    cache: bool = True
    """A text may be told in chunks, over a cache."""
    parts: tuple[str, ...] = PARTS
    """The components within the model that answer alone; none where only the whole model does."""

    def lacks(self) -> list[str]:
        """The features that it does not have: the name of a field, and of a list the option."""
        found = []
        for field in fields(self):
            has: Any = getattr(self, field.name)
            options: Any = field.default
            if options is True:
                found += [] if has else [field.name]
            else:
                found += [f"{field.name} {option}" for option in options if option not in has]
        return found


FULL = Profile()


def restricted(profile: Profile, stated: Mapping[str, Any]) -> Profile:
    """The profile with what an adapter states. Raises ValueError, which names the key that is not understood."""
    return replace(profile, **{key: _understood(key, value) for key, value in stated.items()})


def _understood(key: str, value: Any) -> Any:
    known = {field.name: field.default for field in fields(Profile)}
    if key not in known:
        raise ValueError(f"SUPPORTS[{key!r}] is no feature, expected one of {', '.join(known)}")
    options: Any = known[key]
    if options is True:
        if not isinstance(value, bool):
            raise ValueError(f"SUPPORTS[{key!r}] is {value!r}, expected True or False")
        return value
    listed = f"a list of some of {', '.join(options)}"
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"SUPPORTS[{key!r}] is {value!r}, expected {listed}")
    if unknown := [x for x in value if x not in options]:
        raise ValueError(f"SUPPORTS[{key!r}] holds {unknown[0]!r}, expected {listed}")
    if not value and key != "parts":
        raise ValueError(f"SUPPORTS[{key!r}] is empty, expected {listed}")
    return tuple(x for x in options if x in value)
