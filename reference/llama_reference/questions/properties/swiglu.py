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
    hard,
    must_agree,
    must_vanish,
    numbers,
    off,
    one_of,
)
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import Case

CLAIMS = Claims("swiglu")

AT = "model.layers.1.mlp."
DOWN, BIAS, GATE_BIAS = AT + "down_proj.weight", AT + "down_proj.bias", AT + "gate_proj.bias"
ACTS = ("hard", "gelu", "gelu_pytorch_tanh", "relu")


def hidden(of: Case, seed: int, scale: float = 1.0) -> Tensor:
    return numbers(seed, 5 if of.profile.batch else 1, 7, of.config["hidden_size"], scale=scale)


def feed(source: SwiGLU, of: Case, x: Tensor, edit: Edit = as_it_is) -> Tensor:
    return source.swiglu(built(source, of, edit), 1, x)


def product(of: Case, x: Tensor, part: str) -> Tensor:
    """Of gate or up with x, in float64, its bias included."""
    bias = of.state.get(AT + _parts(part)[1])
    return F.linear(x.double(), of.state[AT + _parts(part)[0]].double(), None if bias is None else bias.double())


def scaled(**factors: float) -> Edit:
    """Weights and biases of gate_proj, up_proj, ... multiplied."""

    def edit(config: Config, state: State) -> tuple[Config, State]:
        return config, {name: w * factors.get(name.split(".")[-2], 1.0) for name, w in state.items()}

    return edit


@CLAIMS.claim()
def hidden_act_names_the_activation(implementation: SwiGLU, draw: Draw) -> None:
    """With W_gate = 0 and W_up = 0 the biases alone speak: y = W_down (φ(b_gate) ∘ b_up) + b_down. Where there are
    none, the weights of a channel that is always 1 do.
    """
    must_vanish(_named, implementation, one_of(draw, ACTS), draw.choice((0.5, 2.0, 8.0, 32.0)))


PHI: dict[str, Any] = {
    "silu": lambda z: z / (1 + (-z).exp()),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda z: z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "relu": lambda z: z.clamp(min=0),
}


def _named(source: SwiGLU, of: Case, loudness: float) -> Tensor:
    biased, x = of.config["mlp_bias"], hidden(of, 0)
    x[..., 0] = 1
    gate = _spoken(of, "gate")
    up = _spoken(of, "up")
    down = of.state[BIAS].double() if biased else None
    speaking = PHI[of.config["hidden_act"]](gate.double() * loudness) * up.double()
    y = feed(source, of, x, _only_biases(loudness))
    return off(y, F.linear(speaking, of.state[DOWN].double(), down).expand_as(y))


def _spoken(of: Case, part: str) -> Tensor:
    """The bias of gate or up, or, where there are none, the first channel of its weight."""
    weight, bias = _parts(part)
    return of.state[AT + bias] if of.config["mlp_bias"] else of.state[AT + weight][:, 0]


@cache
def _only_biases(loudness: float) -> Edit:
    """Of gate and up, or the first channel of their weights; that of the gate made louder."""

    def edit(config: Config, state: State) -> tuple[Config, State]:
        kept = 0 if config["mlp_bias"] else 1
        names = [AT + _parts(part)[0] for part in ("gate", "up")]
        silent = {name: F.pad(state[name][:, :kept], (0, state[name].shape[1] - kept)) for name in names}
        loud = GATE_BIAS if config["mlp_bias"] else names[0]
        state = state | silent
        return config, state | {loud: state[loud] * loudness}

    return edit


@CLAIMS.claim()
def rows_do_not_see_each_other(implementation: SwiGLU, draw: Draw) -> None:
    of = hard(draw)
    x = hidden(of, draw.integer(0, 2**16))
    row, t = draw.integer(0, len(x) - 1), draw.integer(0, 6)
    changed = x.clone()
    changed[row, t] *= -7
    others = torch.ones(x.shape[:2], dtype=torch.bool)
    others[row, t] = False
    before = feed(implementation, of, x)
    after = feed(implementation, of, changed)
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row, t], after[row, t])


@CLAIMS.claim(examples=4)
def a_closed_gate_lets_only_the_bias_through(implementation: SwiGLU, draw: Draw) -> None:
    """With W_gate and its bias 0 the gate is φ(0) = 0, so that y = b_down; up alone opens nothing."""
    of = one_of(draw, ACTS)
    y = feed(implementation, of, hidden(of, 0), _closed)
    assert torch.equal(y, of.state.get(BIAS, torch.zeros(1)).expand_as(y))


_closed = scaled(gate_proj=0.0)


@CLAIMS.claim()
def twice_up_is_twice_the_answer(implementation: SwiGLU, draw: Draw) -> None:
    """y - b_down is linear in W_up x + b_up: doubled, to the bit (b_down = 0)."""
    seed, of = draw.integer(0, 2**16), one_of(draw, ACTS)
    x = hidden(of, seed)
    once = feed(implementation, of, x, _without_down_bias(1.0))
    twice = feed(implementation, of, x, _without_down_bias(2.0))
    assert torch.equal(2 * once, twice)


@cache
def _without_down_bias(factor: float) -> Edit:
    def edit(config: Config, state: State) -> tuple[Config, State]:
        config, state = scaled(up_proj=factor)(config, state)
        return config, state | {name: torch.zeros_like(state[name]) for name in (BIAS,) if name in state}

    return edit


@CLAIMS.claim()
def a_gate_less_its_mirror_image_is_linear(implementation: SwiGLU, draw: Draw) -> None:
    """φ(z) - φ(-z) = z for silu, gelu, its approximation and relu: only the product with up remains."""
    must_vanish(_mirrored, implementation, one_of(draw, ACTS), draw.integer(0, 2**16))


def _mirrored(source: SwiGLU, of: Case, seed: int) -> Tensor:
    x = hidden(of, seed)
    one = feed(source, of, x, as_it_is).double()
    other = feed(source, of, x, _mirror).double()
    exact = F.linear(product(of, x, "gate") * product(of, x, "up"), of.state[DOWN].double())
    return (one - other - exact).abs().amax(-1) / exact.abs().amax(-1)


def _parts(name: str) -> tuple[str, str]:
    return f"{name}_proj.weight", f"{name}_proj.bias"


_mirror = scaled(gate_proj=-1.0)


@CLAIMS.claim(examples=15, needs=("mlp_bias",))
def a_bias_is_the_weight_of_a_channel_that_is_always_1(implementation: SwiGLU, draw: Draw) -> None:
    """In gate_proj and up_proj."""
    must_agree(_moved, implementation, hard(draw), draw.integer(0, 2**16))


def _moved(source: SwiGLU, of: Case, seed: int) -> tuple[Tensor, Tensor]:
    x = hidden(of, seed)
    x[..., 0] = 1
    return feed(source, of, x, _without_first_channel), feed(source, of, x, _biases_as_weights)


def _without_first_channel(config: Config, state: State) -> tuple[Config, State]:
    return config, state | {name: _first_column(state[name], 0) for name, _ in _pairs()}


def _biases_as_weights(config: Config, state: State) -> tuple[Config, State]:
    weights = {name: _first_column(state[name], state[bias]) for name, bias in _pairs()}
    return config, state | weights | {bias: torch.zeros_like(state[bias]) for _, bias in _pairs()}


def _pairs() -> list[tuple[str, str]]:
    return [(AT + weight, AT + bias) for weight, bias in (_parts("gate"), _parts("up"))]


def _first_column(w: Tensor, column: Tensor | int) -> Tensor:
    w = w.clone()
    w[:, 0] = column
    return w
