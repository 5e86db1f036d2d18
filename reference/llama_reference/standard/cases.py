"""The hard case: a configuration, weights and inputs on which the known mistakes show.

A small model as it is initialised hides most of them: gains of one, biases of zero and attention that is uniform to
2e-3 make a missing norm, a dropped bias or a wrong head order vanish. So weights are loud, gains and biases distinct,
embeddings small (eps matters), all dimensions different from each other (a wrong axis does not fit), R unlike G, H
unlike D / N, positions far out and another offset for every row, some rows padded, every llama3 band populated.

A Llama that lacks some of this is asked the hardest case within its profile: what it has is as loud and as distinct.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llama_reference.implementation import Config, State
from llama_reference.standard.profile import FULL, Profile

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCALES = (1e-3, 1.0, 1e3)

_ORIGINAL = {"original_max_position_embeddings": 64}
ROPES: dict[str, Config] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta_500000": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, **_ORIGINAL},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "short_factor": [1.0 + 0.1 * i for i in range(10)],
        "long_factor": [2.0 + 0.3 * i for i in range(10)],
        **_ORIGINAL,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        **_ORIGINAL,
    },
}

HARD: Config = {
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 72,
    "intermediate_size": 92,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": ROPES["llama3"],
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

_ROPE_VARIANTS: dict[str, Config] = {
    f"rope {name}": {"rope_parameters": rope} for name, rope in ROPES.items() if name != "llama3"
}
VARIANTS: dict[str, Config] = _ROPE_VARIANTS | {
    "hard": {},
    "one group": {"num_key_value_heads": 1},
    "a group a head": {"num_key_value_heads": 8},
    "head_dim is hidden / heads": {"hidden_size": 64, "head_dim": 8, "rope_parameters": ROPES["default"]},
    "no biases": {"attention_bias": False, "mlp_bias": False},
    "only attention biases": {"mlp_bias": False},
    "only mlp biases": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu"},
    "gelu_pytorch_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "eps 1e-6": {"rms_norm_eps": 1e-6},
    "eps 1e-2": {"rms_norm_eps": 1e-2},
}

PADS = (3, 0, 6, 1, 11)  # the first row is padded too: its padding must not pass for everybody's
OFFSETS = (0, 301, 1777, 5, 40)
LENGTH = 48
SPLIT = (5, 3, 1, 30, 9)
# Where positions are consecutive from 0 the text itself must go past the contexts that scaled rotary looks at.
SHORT = 40
# hidden_size = heads × head_dim, and still no two sizes alike
NARROW_HEADS: Config = {"hidden_size": 96, "head_dim": 12}


def configuration(variant: str, profile: Profile = FULL) -> Config:
    """The variant of the hardest configuration within the profile; the variant must be within it too."""
    if profile == FULL:
        return HARD | VARIANTS[variant]
    return _within(_hardest(profile) | VARIANTS[variant], profile)


def _hardest(profile: Profile) -> Config:
    kinds = [name for kind in profile.rope_type for name in ROPES if ROPES[name]["rope_type"] == kind]
    return HARD | {"rope_parameters": ROPES[kinds[0]], "hidden_act": profile.hidden_act[0]}


def _within(config: Config, profile: Profile) -> Config:
    """The configuration without what the profile lacks."""
    if not profile.head_dim:
        config = config | NARROW_HEADS
    if not profile.num_key_value_heads:
        config = config | {"num_key_value_heads": config["num_attention_heads"]}
    config = config | {
        name: config[name] and getattr(profile, name) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")
    }
    rope = dict(config["rope_parameters"])
    planes = config["head_dim"] // 2
    rope |= {key: rope[key][:planes] for key in ("short_factor", "long_factor") if key in rope}
    if not profile.positions:
        rope |= {key: SHORT for key in _ORIGINAL if key in rope}
        if rope["rope_type"] == "dynamic":
            config = config | {"max_position_embeddings": SHORT}
    return config | {"rope_parameters": rope}


def lacking(variant: str, profile: Profile) -> str:
    """What the variant is about and the profile does not have; nothing where it has it."""
    asked = VARIANTS[variant]
    kind = asked.get("rope_parameters", {}).get("rope_type")
    if kind not in (None, *profile.rope_type):
        return f"rope_type {kind}"
    if asked.get("hidden_act") not in (None, *profile.hidden_act):
        return f"hidden_act {asked['hidden_act']}"
    if asked.get("num_key_value_heads", 8) < HARD["num_attention_heads"] and not profile.num_key_value_heads:
        return "num_key_value_heads"
    if asked.get("tie_word_embeddings") and not profile.tie_word_embeddings:
        return "tie_word_embeddings"
    return ""


def within(variants: Iterable[str], profile: Profile) -> tuple[str, ...]:
    """Those of the variants that the profile has, each configuration once; the hard one is never dropped."""
    asked = tuple(variants)
    return tuple(v for v in asked if not lacking(v, profile) and twin(v, asked, profile) == v)


def twin(variant: str, variants: tuple[str, ...], profile: Profile) -> str:
    """Of the variants the one that is the same within the profile: the hard one if it is, or else the first."""
    config = configuration(variant, profile)
    ordered = sorted((*variants, variant), key=lambda v: v != "hard")
    return next(v for v in ordered if not lacking(v, profile) and configuration(v, profile) == config)


def dtypes(profile: Profile) -> tuple[torch.dtype, ...]:
    """Those of the profile."""
    return tuple(dtype for dtype in DTYPES if str(dtype).removeprefix("torch.") in profile.dtype)


@dataclass(frozen=True)
class Case:
    """One variant of the hard model at one dtype, with its weights and inputs, all drawn from `seed`."""

    variant: str = "hard"
    dtype: torch.dtype = torch.float32
    seed: int = 0
    exact: bool = False  # inputs as float64, after rounding to the dtype
    profile: Profile = FULL

    @property
    def config(self) -> Config:
        return configuration(self.variant, self.profile)

    @cached_property
    def state(self) -> State:
        return weights(self.config, self.seed)

    @property
    def rows(self) -> int:
        return len(PADS) if self.profile.batch else 1

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, T): rows padded on the left, each by another length; None where nothing can be padded."""
        return self.real.long() if self.profile.padding else None

    @cached_property
    def real(self) -> Tensor:
        """(B, T): where there is no padding. What a padded position answers is nobody's business."""
        pads = torch.tensor(PADS[: self.rows]) if self.profile.padding else torch.zeros(self.rows, dtype=torch.long)
        return torch.arange(LENGTH) >= pads[:, None]

    @cached_property
    def positions(self) -> Tensor:
        """(B, T): each row from another offset on, far past every original context; or all from 0 on."""
        if not self.profile.positions:
            return torch.arange(LENGTH).repeat(self.rows, 1)
        return torch.tensor(OFFSETS if self.profile.batch else (301,))[:, None] + torch.arange(LENGTH)

    @cached_property
    def tokens(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(self.config["vocab_size"], (self.rows, LENGTH), generator=generator)

    def normal(self, *shape: int, scale: float = 1.0, salt: int = 0) -> Tensor:
        """Normal activations of the case's dtype; another salt gives other ones."""
        generator = torch.Generator().manual_seed(self.seed * 1009 + salt + 1)
        x = (torch.randn(shape, generator=generator) * scale).to(self.dtype)
        return (x.double() if self.exact else x).requires_grad_(torch.is_grad_enabled())

    def hidden(self, scale: float = 1.0, salt: int = 0) -> Tensor:
        """A residual stream (B, T, D)."""
        return self.normal(self.rows, LENGTH, self.config["hidden_size"], scale=scale, salt=salt)


def weights(config: Config, seed: int) -> State:
    """A loud state dict in float32, HF's names and shapes; a tied head is left out."""
    D = config["hidden_size"]
    F = config["intermediate_size"]
    V = config["vocab_size"]
    L = config["num_hidden_layers"]
    N = config["num_attention_heads"]
    G = config["num_key_value_heads"]
    H = config["head_dim"]
    attention = {"q_proj": (N * H, D), "k_proj": (G * H, D), "v_proj": (G * H, D), "o_proj": (D, N * H)}
    mlp = {"gate_proj": (F, D), "up_proj": (F, D), "down_proj": (D, F)}
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    def gain() -> Tensor:
        return torch.rand(D, generator=generator) + 0.5

    state = {"model.embed_tokens.weight": normal((V, D), 0.05)}
    for layer in range(L):
        at = f"model.layers.{layer}."
        for part, shapes, bias in (("self_attn", attention, "attention_bias"), ("mlp", mlp, "mlp_bias")):
            for name, shape in shapes.items():
                loudness = 1.6 if name in ("q_proj", "k_proj") else 1.0
                state[f"{at}{part}.{name}.weight"] = normal(shape, loudness / shape[1] ** 0.5)
                if config[bias]:
                    state[f"{at}{part}.{name}.bias"] = normal(shape[:1], 0.3)
        state[f"{at}input_layernorm.weight"] = gain()
        state[f"{at}post_attention_layernorm.weight"] = gain()
    state["model.norm.weight"] = gain()
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = normal((V, D), D**-0.5)
    return state
