"""Claims about RMSNorm."""

import torch
from torch import Tensor

from llama_reference.implementation import Config, RmsNorm, State
from llama_reference.questions.properties.asking import built, case, fresh, must_vanish, numbers, off
from llama_reference.questions.properties.claims import Claims, Draw

CLAIMS = Claims("rms_norm")

WHERE = "model.layers.1.post_attention_layernorm"
GAIN = WHERE + ".weight"
EPS = ("hard", "eps 1e-6", "eps 1e-2")
D = case().config["hidden_size"]


def rows(seed: int, scale: float = 1.0) -> Tensor:
    return numbers(seed, 5, 7, D, scale=scale)


def norm(source: RmsNorm, variant: str, x: Tensor) -> Tensor:
    return source.rms_norm(built(source, case(variant)), WHERE, x)


@CLAIMS.claim()
def the_mean_square_is_one_but_for_eps(implementation: RmsNorm, draw: Draw) -> None:
    """mean (y/g)² = m / (m + eps), m = mean x²: 1 for large rows, m / eps for small ones, where eps dominates."""
    scale = 10.0 ** draw.integer(-4, 3)
    must_vanish(_mean_square, implementation, draw.integer(0, 2**16), draw.choice(EPS), scale)


def _mean_square(source: RmsNorm, seed: int, variant: str, scale: float) -> Tensor:
    x, setting = rows(seed, scale), case(variant)
    m = x.double().pow(2).mean(-1)
    found = (norm(source, variant, x).double() / setting.state[GAIN].double()).pow(2).mean(-1)
    return found * (m + setting.config["rms_norm_eps"]) / m - 1


@CLAIMS.claim()
def rows_do_not_see_each_other(implementation: RmsNorm, draw: Draw) -> None:
    x = rows(draw.integer(0, 2**16))
    row, t = draw.integer(0, 4), draw.integer(0, 6)
    changed = x.clone()
    changed[row, t] *= -7
    others = torch.ones(x.shape[:2], dtype=torch.bool)
    others[row, t] = False
    before, after = (norm(implementation, "hard", y) for y in (x, changed))
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row, t], after[row, t])


@CLAIMS.claim()
def scaling_large_rows_changes_nothing(implementation: RmsNorm, draw: Draw) -> None:
    """y(cx) = y(x) where eps is negligible; by powers of two the rounding is the same too."""
    must_vanish(_scaled, implementation, draw.integer(0, 2**16), draw.integer(1, 10))


def _scaled(source: RmsNorm, seed: int, power: int) -> Tensor:
    x = rows(seed, 1e4)
    return off(norm(source, "hard", x * 2.0**power), norm(source, "hard", x))


@CLAIMS.claim(examples=1)
def a_row_of_zeros_stays_zero(implementation: RmsNorm, _draw: Draw) -> None:
    for variant in EPS:
        x = rows(0)
        x[1, 2] = 0
        y = norm(implementation, variant, x)
        assert torch.equal(y[1, 2], torch.zeros(D))
        assert y.isfinite().all()


@CLAIMS.claim()
def a_constant_row_becomes_its_gain(implementation: RmsNorm, draw: Draw) -> None:
    """x = c everywhere: y = g c / √(c² + eps). Nothing is centred."""
    must_vanish(_constant, implementation, draw.choice(EPS), 10.0 ** draw.integer(-4, 3))


def _constant(source: RmsNorm, variant: str, size: float) -> Tensor:
    setting = case(variant)
    c = numbers(0, 5, 7, 1, scale=size)
    exact = c.double() / (c.double().pow(2) + setting.config["rms_norm_eps"]).sqrt() * setting.state[GAIN].double()
    return off(norm(source, variant, c.expand(-1, -1, D)), exact)


@CLAIMS.claim()
def each_gain_acts_on_its_own_channel(implementation: RmsNorm, draw: Draw) -> None:
    """Half of a gain halves its channel, to the bit, and moves no other."""
    channel, x = draw.integer(0, D - 1), rows(draw.integer(0, 2**16))

    def halved(config: Config, state: State) -> tuple[Config, State]:
        factor = torch.ones(D)
        factor[channel] = 0.5
        return config, state | {GAIN: state[GAIN] * factor}

    before = norm(implementation, "hard", x)
    after = implementation.rms_norm(fresh(implementation, case(), halved), WHERE, x)
    before[..., channel] /= 2
    assert torch.equal(before, after)


@CLAIMS.claim()
def squares_of_half_precision_rows_do_not_overflow(implementation: RmsNorm, draw: Draw) -> None:
    """In float16 the square of 256 is infinite already: the mean of squares is taken in float32."""
    must_vanish(_large_halves, implementation, draw.integer(0, 2**16), dtype=torch.float16)


def _large_halves(source: RmsNorm, seed: int) -> Tensor:
    narrow, x = case(dtype=torch.float16), rows(seed, 1e3).half()
    y = source.rms_norm(built(source, narrow), WHERE, x).double() / narrow.state[GAIN].half().double()
    return y.pow(2).mean(-1) - 1
