"""Claims about RMSNorm."""

import torch
from torch import Tensor

from llama_reference.implementation import Config, RmsNorm, State
from llama_reference.questions.properties.asking import built, case, fresh, hard, must_vanish, numbers, off, one_of
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import Case, within
from llama_reference.standard.profile import Profile

CLAIMS = Claims("rms_norm")

WHERE = "model.layers.1.post_attention_layernorm"
GAIN = WHERE + ".weight"
EPS = ("hard", "eps 1e-6", "eps 1e-2")


def rows(of: Case, seed: int, scale: float = 1.0, channels: int | None = None) -> Tensor:
    D = of.config["hidden_size"] if channels is None else channels
    return numbers(seed, 5 if of.profile.batch else 1, 7, D, scale=scale)


def norm(source: RmsNorm, of: Case, x: Tensor) -> Tensor:
    return source.rms_norm(built(source, of), WHERE, x)


@CLAIMS.claim()
def the_mean_square_is_one_but_for_eps(implementation: RmsNorm, draw: Draw) -> None:
    """mean (y/g)² = m / (m + eps), m = mean x²: 1 for large rows, m / eps for small ones, where eps dominates."""
    scale = 10.0 ** draw.integer(-4, 3)
    must_vanish(_mean_square, implementation, draw.integer(0, 2**16), one_of(draw, EPS), scale)


def _mean_square(source: RmsNorm, seed: int, of: Case, scale: float) -> Tensor:
    x = rows(of, seed, scale)
    m = x.double().pow(2).mean(-1)
    found = (norm(source, of, x).double() / of.state[GAIN].double()).pow(2).mean(-1)
    return found * (m + of.config["rms_norm_eps"]) / m - 1


@CLAIMS.claim()
def rows_do_not_see_each_other(implementation: RmsNorm, draw: Draw) -> None:
    of = hard(draw)
    x = rows(of, draw.integer(0, 2**16))
    row, t = draw.integer(0, len(x) - 1), draw.integer(0, 6)
    changed = x.clone()
    changed[row, t] *= -7
    others = torch.ones(x.shape[:2], dtype=torch.bool)
    others[row, t] = False
    before = norm(implementation, of, x)
    after = norm(implementation, of, changed)
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row, t], after[row, t])


@CLAIMS.claim()
def scaling_large_rows_changes_nothing(implementation: RmsNorm, draw: Draw) -> None:
    """y(cx) = y(x) where eps is negligible; by powers of two the rounding is the same too."""
    must_vanish(_scaled, implementation, hard(draw), draw.integer(0, 2**16), draw.integer(1, 10))


def _scaled(source: RmsNorm, of: Case, seed: int, power: int) -> Tensor:
    x = rows(of, seed, 1e4)
    return off(norm(source, of, x * 2.0**power), norm(source, of, x))


@CLAIMS.claim(examples=1)
def a_row_of_zeros_stays_zero(implementation: RmsNorm, draw: Draw) -> None:
    for variant in within(EPS, draw.profile):
        of = case(variant, profile=draw.profile)
        x = rows(of, 0)
        x[-1, 2] = 0
        y = norm(implementation, of, x)
        assert torch.equal(y[-1, 2], torch.zeros(x.shape[-1]))
        assert y.isfinite().all()


@CLAIMS.claim()
def a_constant_row_becomes_its_gain(implementation: RmsNorm, draw: Draw) -> None:
    """x = c everywhere: y = g c / √(c² + eps). Nothing is centred."""
    must_vanish(_constant, implementation, one_of(draw, EPS), 10.0 ** draw.integer(-4, 3))


def _constant(source: RmsNorm, of: Case, size: float) -> Tensor:
    c = rows(of, 0, size, channels=1)
    exact = c.double() / (c.double().pow(2) + of.config["rms_norm_eps"]).sqrt() * of.state[GAIN].double()
    return off(norm(source, of, c.expand(-1, -1, of.config["hidden_size"])), exact)


@CLAIMS.claim()
def each_gain_acts_on_its_own_channel(implementation: RmsNorm, draw: Draw) -> None:
    """Half of a gain halves its channel, to the bit, and moves no other."""
    of = hard(draw)
    D = of.config["hidden_size"]
    channel = draw.integer(0, D - 1)
    x = rows(of, draw.integer(0, 2**16))

    def halved(config: Config, state: State) -> tuple[Config, State]:
        factor = torch.ones(D)
        factor[channel] = 0.5
        return config, state | {GAIN: state[GAIN] * factor}

    before = norm(implementation, of, x)
    after = implementation.rms_norm(fresh(implementation, of, halved), WHERE, x)
    before[..., channel] /= 2
    assert torch.equal(before, after)


@CLAIMS.claim(needs=("float16",))
def squares_of_half_precision_rows_do_not_overflow(implementation: RmsNorm, draw: Draw) -> None:
    """In float16 the square of 256 is infinite already: the mean of squares is taken in float32."""
    must_vanish(_large_halves, implementation, draw.profile, draw.integer(0, 2**16), dtype=torch.float16)


def _large_halves(source: RmsNorm, profile: Profile, seed: int) -> Tensor:
    narrow = case(dtype=torch.float16, profile=profile)
    x = rows(narrow, seed, 1e3).half()
    y = source.rms_norm(built(source, narrow), WHERE, x).double() / narrow.state[GAIN].half().double()
    return y.pow(2).mean(-1) - 1
