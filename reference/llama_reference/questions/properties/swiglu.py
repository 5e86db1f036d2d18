"""Claims about SwiGLU: W_down (φ(W_gate x) ∘ W_up x), every product with its bias."""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import Config, State, SwiGLU
from llama_reference.questions.properties.asking import (
    Edit,
    as_it_is,
    built,
    case,
    must_agree,
    must_vanish,
    numbers,
    off,
)
from llama_reference.questions.properties.claims import Claims, Draw

CLAIMS = Claims("swiglu")

AT = "model.layers.1.mlp."
DOWN, BIAS, GATE_BIAS = AT + "down_proj.weight", AT + "down_proj.bias", AT + "gate_proj.bias"
ACTS = ("hard", "gelu", "gelu_pytorch_tanh", "relu")
D, INNER = case().config["hidden_size"], case().config["intermediate_size"]


def hidden(seed: int, scale: float = 1.0) -> Tensor:
    return numbers(seed, 5, 7, D, scale=scale)


def feed(source: SwiGLU, variant: str, x: Tensor, edit: Edit = as_it_is) -> Tensor:
    return source.swiglu(built(source, case(variant), edit), 1, x)


def scaled(**factors: float) -> Edit:
    """Weights and biases of gate_proj, up_proj, ... multiplied."""

    def edit(config: Config, state: State) -> tuple[Config, State]:
        return config, {name: w * factors.get(name.split(".")[-2], 1.0) for name, w in state.items()}

    return edit


@CLAIMS.claim()
def hidden_act_names_the_activation(implementation: SwiGLU, draw: Draw) -> None:
    """With W_gate = 0 and W_up = 0 the biases alone speak: y = W_down (φ(b_gate) ∘ b_up) + b_down."""
    must_vanish(_named, implementation, draw.choice(ACTS), draw.choice((0.5, 2.0, 8.0, 32.0)))


PHI: dict[str, Any] = {
    "silu": lambda z: z / (1 + (-z).exp()),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda z: z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "relu": lambda z: z.clamp(min=0),
}


def _named(source: SwiGLU, variant: str, loudness: float) -> Tensor:
    state = case(variant).state
    gate, up, down = (state[AT + _parts(part)[1]].double() for part in ("gate", "up", "down"))
    exact = F.linear(PHI[case(variant).config["hidden_act"]](gate * loudness) * up, state[DOWN].double(), down)
    y = feed(source, variant, hidden(0), _only_biases(loudness))
    return off(y, exact.expand_as(y))


@cache
def _only_biases(loudness: float) -> Edit:
    """Of gate and up; that of the gate made louder."""

    def edit(config: Config, state: State) -> tuple[Config, State]:
        weights = {AT + _parts(part)[0]: torch.zeros(INNER, D) for part in ("gate", "up")}
        return config, state | weights | {GATE_BIAS: state[GATE_BIAS] * loudness}

    return edit


@CLAIMS.claim()
def rows_do_not_see_each_other(implementation: SwiGLU, draw: Draw) -> None:
    x, row, t = hidden(draw.integer(0, 2**16)), draw.integer(0, 4), draw.integer(0, 6)
    changed = x.clone()
    changed[row, t] *= -7
    others = torch.ones(x.shape[:2], dtype=torch.bool)
    others[row, t] = False
    before, after = (feed(implementation, "hard", y) for y in (x, changed))
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row, t], after[row, t])


@CLAIMS.claim(examples=4)
def a_closed_gate_lets_only_the_bias_through(implementation: SwiGLU, draw: Draw) -> None:
    """With W_gate and its bias 0 the gate is φ(0) = 0, so that y = b_down; up alone opens nothing."""
    variant = draw.choice(ACTS)
    y = feed(implementation, variant, hidden(0), _closed)
    assert torch.equal(y, case(variant).state[BIAS].expand_as(y))


_closed = scaled(gate_proj=0.0)


@CLAIMS.claim()
def twice_up_is_twice_the_answer(implementation: SwiGLU, draw: Draw) -> None:
    """y - b_down is linear in W_up x + b_up: doubled, to the bit (b_down = 0)."""
    x, variant = hidden(draw.integer(0, 2**16)), draw.choice(ACTS)
    once, twice = (feed(implementation, variant, x, _without_down_bias(factor)) for factor in (1.0, 2.0))
    assert torch.equal(2 * once, twice)


@cache
def _without_down_bias(factor: float) -> Edit:
    def edit(config: Config, state: State) -> tuple[Config, State]:
        config, state = scaled(up_proj=factor)(config, state)
        return config, state | {BIAS: torch.zeros(D)}

    return edit


@CLAIMS.claim()
def a_gate_less_its_mirror_image_is_linear(implementation: SwiGLU, draw: Draw) -> None:
    """φ(z) - φ(-z) = z for silu, gelu, its approximation and relu: only the product with up remains."""
    must_vanish(_mirrored, implementation, draw.choice(ACTS), draw.integer(0, 2**16))


def _mirrored(source: SwiGLU, variant: str, seed: int) -> Tensor:
    x, state = hidden(seed), case(variant).state
    one, other = (feed(source, variant, x, edit).double() for edit in (as_it_is, _mirror))
    gate, up = (F.linear(x.double(), *(state[AT + n].double() for n in _parts(part))) for part in ("gate", "up"))
    exact = F.linear(gate * up, state[DOWN].double())
    return (one - other - exact).abs().amax(-1) / exact.abs().amax(-1)


def _parts(name: str) -> tuple[str, str]:
    return f"{name}_proj.weight", f"{name}_proj.bias"


_mirror = scaled(gate_proj=-1.0)


@CLAIMS.claim(examples=15)
def a_bias_is_the_weight_of_a_channel_that_is_always_1(implementation: SwiGLU, draw: Draw) -> None:
    """In gate_proj and up_proj."""
    must_agree(_moved, implementation, draw.integer(0, 2**16))


def _moved(source: SwiGLU, seed: int) -> tuple[Tensor, Tensor]:
    x = hidden(seed)
    x[..., 0] = 1
    return feed(source, "hard", x, _without_first_channel), feed(source, "hard", x, _biases_as_weights)


def _without_first_channel(config: Config, state: State) -> tuple[Config, State]:
    return config, state | {name: _first_column(state[name], 0) for name, _ in _pairs()}


def _biases_as_weights(config: Config, state: State) -> tuple[Config, State]:
    weights = {name: _first_column(state[name], state[bias]) for name, bias in _pairs()}
    return config, state | weights | {bias: torch.zeros(INNER) for _, bias in _pairs()}


def _pairs() -> list[tuple[str, str]]:
    return [(AT + weight, AT + bias) for weight, bias in (_parts("gate"), _parts("up"))]


def _first_column(w: Tensor, column: Tensor | int) -> Tensor:
    w = w.clone()
    w[:, 0] = column
    return w
