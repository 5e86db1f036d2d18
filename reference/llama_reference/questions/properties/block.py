"""Claims about a block."""

from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Block, Config, Implementation, State
from llama_reference.questions.properties.asking import (
    LENGTH,
    built,
    hard,
    must_agree,
    numbers,
    padding,
    positions,
    real,
    rows,
)
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import HARD, Case

CLAIMS = Claims("block")

LAYERS = range(HARD["num_hidden_layers"])
SCALES = (0.05, 1.0, 30.0)


def hidden(of: Case, seed: int, scale: float = 1.0) -> Tensor:
    return numbers(seed, rows(of), LENGTH, of.config["hidden_size"], scale=scale)


def silenced(*parts: str) -> Any:
    """The parts' weights and biases 0."""

    def edit(config: Config, state: State) -> tuple[Config, State]:
        return config, {name: torch.zeros_like(w) if any(p in name for p in parts) else w for name, w in state.items()}

    return edit


@CLAIMS.claim(examples=15, needs=("rms_norm", "attention", "swiglu"))
def it_is_the_sum_of_its_own_parts(implementation: Implementation, draw: Draw) -> None:
    """h = x + attention(norm₁ x); y = h + mlp(norm₂ h): asked of the parts one by one, and of the whole."""
    must_agree(_summed, implementation, hard(draw), draw.choice(LAYERS), draw.integer(0, 2**16), draw.choice(SCALES))


def _summed(source: Implementation, of: Case, layer: int, seed: int, scale: float) -> tuple[Tensor, Tensor]:
    handle = built(source, of)
    x = hidden(of, seed, scale)
    mask = padding(of)
    at = f"model.layers.{layer}."
    h = x + source.attention(handle, layer, source.rms_norm(handle, at + "input_layernorm", x), positions(of), mask)
    y = h + source.swiglu(handle, layer, source.rms_norm(handle, at + "post_attention_layernorm", h))
    return source.block(handle, layer, x, positions(of), mask)[real(of)], y[real(of)]


@CLAIMS.claim(examples=15)
def future_tokens_do_not_move_the_past(implementation: Block, draw: Draw) -> None:
    of = hard(draw)
    x = hidden(of, draw.integer(0, 2**16))
    t = draw.integer(1, LENGTH - 1)
    layer = draw.choice(LAYERS)
    other = x.clone()
    other[:, t:] = hidden(of, draw.integer(0, 2**16) + 2**17)[:, t:]
    handle = built(implementation, of)
    before = implementation.block(handle, layer, x, positions(of), None)
    after = implementation.block(handle, layer, other, positions(of), None)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@CLAIMS.claim(examples=15, needs=("batch",))
def rows_do_not_see_each_other(implementation: Block, draw: Draw) -> None:
    of = hard(draw)
    x = hidden(of, draw.integer(0, 2**16))
    row = draw.integer(0, rows(of) - 1)
    layer = draw.choice(LAYERS)
    other = x.clone()
    other[row] *= -7
    handle = built(implementation, of)
    before = implementation.block(handle, layer, x, positions(of), None)
    after = implementation.block(handle, layer, other, positions(of), None)
    others = [i for i in range(rows(of)) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@CLAIMS.claim(examples=len(LAYERS))
def without_its_projections_it_passes_the_residual_stream_on(implementation: Block, draw: Draw) -> None:
    """o_proj = down_proj = 0, biases too: both residual branches add nothing."""
    of = hard(draw)
    handle = built(implementation, of, silenced("o_proj", "down_proj"))
    x = hidden(of, 0)
    assert torch.equal(implementation.block(handle, draw.choice(LAYERS), x, positions(of), None), x)


@CLAIMS.claim(examples=1)
def it_leaves_its_input_alone(implementation: Block, draw: Draw) -> None:
    of = hard(draw)
    x = hidden(of, 0)
    before = x.clone()
    implementation.block(built(implementation, of), 1, x, positions(of), None)
    assert torch.equal(x, before)
