"""Claims about the rotary embedding. Channels i and i + H/2 form a plane, turned by p θ_i at position p."""

import math
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Rotary
from llama_reference.questions.properties.asking import built, case, fresh, must_vanish, numbers, off
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import ROPES

CLAIMS = Claims("rotary")

# the types whose factor on cosine and sine is 1, so that turning keeps lengths
PLAIN = ("hard", "rope default", "rope theta_500000", "rope linear")
SHARPENED = ("rope yarn", "rope longrope")
ALL = ("hard", *(f"rope {name}" for name in ROPES if name != "llama3"))
EDGES = (255, 256, 257, 2047, 2048, 4095)  # bfloat16 holds every whole number up to 256
N, G, H = (case().config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
HALF = H // 2
FARTHEST = 2000
MANY = 16  # the rounding of one angle may be lucky


def vectors(seed: int, T: int = MANY, rows: int = 1) -> tuple[Tensor, Tensor]:
    """Queries (rows, N, T, H) and keys (rows, G, T, H)."""
    return numbers(seed, rows, N, T, H), numbers(seed + 1, rows, G, T, H)


def somewhere(seed: int, farthest: int = FARTHEST) -> Tensor:
    """A position for each token."""
    return torch.randint(farthest + 1, (1, MANY), generator=torch.Generator().manual_seed(seed))


def everywhere(p: int) -> Tensor:
    """The same position for every token."""
    return torch.full((1, MANY), p)


def turn(source: Rotary, variant: str, q: Tensor, k: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Queries turned to positions m, keys to positions n."""
    handle = built(source, case(variant))
    return source.rotary(handle, q, k, m)[0], source.rotary(handle, q, k, n)[1]


def rates(source: Rotary, variant: str, length: int = 2) -> Tensor:
    """The angles (N + G, H/2) by which position 1 turns each plane in each head, within a call of that length."""
    q, k = torch.zeros(1, N, HALF + 1, H), torch.zeros(1, G, HALF + 1, H)
    q[:, :, :HALF, :HALF] = k[:, :, :HALF, :HALF] = torch.eye(HALF)  # token i is the unit vector of plane i
    at = torch.ones(1, HALF + 1, dtype=torch.long)
    at[0, -1] = length - 1
    turned = torch.cat(source.rotary(built(source, case(variant)), q, k, at), dim=1)[0, :, :HALF].double()
    along, across = (turned[..., part].diagonal(dim1=-2, dim2=-1) for part in (slice(HALF), slice(HALF, None)))
    return torch.atan2(across, along)


def rope(variant: str) -> dict[str, Any]:
    return case(variant).config["rope_parameters"]


@CLAIMS.claim(examples=1)
def rates_are_the_powers_of_theta(implementation: Rotary, _draw: Draw) -> None:
    """θ_i = θ^(-2i/H): the first plane turns by one radian a position, forwards."""
    for variant in ("rope default", "rope theta_500000"):
        must_vanish(_powers, implementation, variant)


def _powers(source: Rotary, variant: str) -> Tensor:
    i = torch.arange(HALF, dtype=torch.float64)
    return rates(source, variant) - rope(variant)["rope_theta"] ** (-2 * i / H)


@CLAIMS.claim(examples=1)
def linear_scaling_divides_every_rate(implementation: Rotary, _draw: Draw) -> None:
    must_vanish(_linear, implementation)


def _linear(source: Rotary) -> Tensor:
    return rates(source, "rope linear") - rates(source, "rope default") / rope("rope linear")["factor"]


@CLAIMS.claim(examples=1)
def llama3_keeps_fast_planes_and_slows_down_slow_ones(implementation: Rotary, _draw: Draw) -> None:
    """A plane that turns n times within the original length keeps the share (n - low) / (high - low) of its rate, at
    least 0 and at most 1, and the factor divides the rest.
    """
    must_vanish(_llama3, implementation)


def _llama3(source: Rotary) -> Tensor:
    given, default = rope("hard"), rates(source, "rope default")
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    turns = given["original_max_position_embeddings"] * default / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return rates(source, "hard") - default * (kept + (1 - kept) / given["factor"])


@CLAIMS.claim(examples=1)
def yarn_keeps_fast_planes_and_slows_down_slow_ones(implementation: Rotary, _draw: Draw) -> None:
    """Along a ramp over the planes, from the one of 32 turns to the one of 1 turn, rounded outwards."""
    must_vanish(_yarn, implementation)


def _yarn(source: Rotary) -> Tensor:
    given = rope("rope yarn")
    spans = (given["original_max_position_embeddings"] / (2 * math.pi * turns) for turns in (32, 1))
    first, last = (HALF * math.log(span) / math.log(given["rope_theta"]) for span in spans)
    first, last = max(math.floor(first), 0), math.ceil(last)
    kept = 1 - ((torch.arange(HALF) - first) / (last - first)).clamp(0, 1).double()
    return rates(source, "rope yarn") - rates(source, "rope default") * (kept + (1 - kept) / given["factor"])


@CLAIMS.claim(examples=1)
def longrope_divides_each_rate_by_its_factor(implementation: Rotary, _draw: Draw) -> None:
    """By the short one up to the original length, which is 64, by the long one beyond."""
    for length in (2, 64, 65, 1000):
        must_vanish(_longrope, implementation, length)


def _longrope(source: Rotary, length: int) -> Tensor:
    given = rope("rope longrope")
    factors = given["long_factor" if length > given["original_max_position_embeddings"] else "short_factor"]
    return rates(source, "rope longrope", length) - rates(source, "rope default") / torch.tensor(factors).double()


@CLAIMS.claim(examples=1)
def where_cosines_are_sharpened_position_0_shows_by_how_much(implementation: Rotary, _draw: Draw) -> None:
    """By 0.1 ln s + 1 in yarn, by √(1 + ln s / ln L) in longrope; s the factor, L the original length."""
    for variant in SHARPENED:
        must_vanish(_sharpened, implementation, variant)


def _sharpened(source: Rotary, variant: str) -> Tensor:
    s, original = (rope(variant)[key] for key in ("factor", "original_max_position_embeddings"))
    exact = 0.1 * math.log(s) + 1 if "yarn" in variant else math.sqrt(1 + math.log(s) / math.log(original))
    before = vectors(0)
    pairs = zip(turn(source, variant, *before, everywhere(0), everywhere(0)), before, strict=True)
    return torch.cat([off(after, x.double() * exact) for after, x in pairs], dim=1)


@CLAIMS.claim()
def scores_depend_on_the_distance_only(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_shifted, implementation, draw.choice(PLAIN), draw.integer(0, 2**16), draw.integer(1, FARTHEST))


def _shifted(source: Rotary, variant: str, seed: int, shift: int) -> Tensor:
    (q, k), m, n = vectors(seed), somewhere(seed), somewhere(seed + 1)
    pairs = [turn(source, variant, q, k, m + s, n + s) for s in (0, shift)]
    here, there = ((q[:, :G].double() * k.double()).sum(-1) for q, k in pairs)
    return (here - there) / (q[:, :G].norm(dim=-1) * k.norm(dim=-1))


@CLAIMS.claim()
def lengths_are_kept(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_lengths, implementation, draw.choice(PLAIN), draw.integer(0, 2**16))


def _lengths(source: Rotary, variant: str, seed: int) -> Tensor:
    before, m = vectors(seed), somewhere(seed)
    after = turn(source, variant, *before, m, m)
    norms = [torch.cat(pair, dim=1).double().norm(dim=-1) for pair in (after, before)]
    return norms[0] / norms[1] - 1


@CLAIMS.claim()
def turns_add_up(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_twice, implementation, draw.choice(PLAIN), draw.integer(0, 2**16))


def _twice(source: Rotary, variant: str, seed: int) -> Tensor:
    (q, k), m, n = vectors(seed), somewhere(seed), somewhere(seed + 1)
    once = turn(source, variant, q, k, m + n, m + n)
    twice = turn(source, variant, *turn(source, variant, q, k, m, m), n, n)
    return off(torch.cat(twice, dim=1), torch.cat(once, dim=1))


@CLAIMS.claim()
def queries_and_keys_turn_alike_in_every_head(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_alike, implementation, draw.choice(ALL), draw.integer(0, 2**16))


def _alike(source: Rotary, variant: str, seed: int) -> Tensor:
    x, m = numbers(seed, 1, 1, MANY, H), somewhere(seed)
    q, k = turn(source, variant, x.expand(-1, N, -1, -1), x.expand(-1, G, -1, -1), m, m)
    return torch.cat((off(q, q[:, :1]), off(k, q[:, :1])), dim=1)


@CLAIMS.claim(examples=4)
def position_0_turns_nothing(implementation: Rotary, draw: Draw) -> None:
    q, k = vectors(0)
    turned_q, turned_k = turn(implementation, draw.choice(PLAIN), q, k, everywhere(0), everywhere(0))
    assert torch.equal(turned_q, q)
    assert torch.equal(turned_k, k)


@CLAIMS.claim()
def a_channel_mixes_with_the_one_half_a_head_away_only(implementation: Rotary, draw: Draw) -> None:
    """A unit vector along channel i stays in the plane of channels i and i + H/2 (mod H)."""
    channel, m = draw.integer(0, H - 1), somewhere(draw.integer(0, 2**16))
    q, k = torch.zeros(1, N, MANY, H), torch.zeros(1, G, MANY, H)
    q[..., channel] = k[..., channel] = 1
    for turned in turn(implementation, draw.choice(ALL), q, k, m, m):
        turned[..., [channel, (channel + HALF) % H]] = 0
        assert torch.equal(turned, torch.zeros_like(turned))


@CLAIMS.claim()
def dynamic_scaling_slows_down_the_slowest_plane_by_the_stretch(implementation: Rotary, draw: Draw) -> None:
    """Of a call of n positions by s n / L - (s - 1), beyond the trained length L; the first plane not at all, those
    between by powers of it; and nothing within L.
    """
    must_vanish(_dynamic, implementation, draw.choice((2, 100, 256, 257, 300, 1000, FARTHEST)))


def _dynamic(source: Rotary, length: int) -> Tensor:
    trained, s = case().config["max_position_embeddings"], rope("rope dynamic")["factor"]
    stretch = s * max(length, trained) / trained - (s - 1)
    share = torch.arange(HALF, dtype=torch.float64) / (HALF - 1)
    return rates(source, "rope dynamic", length) - rates(source, "rope default") * stretch**-share


@CLAIMS.claim()
def narrow_models_turn_as_exactly_as_wide_ones(implementation: Rotary, draw: Draw) -> None:
    """Positions, frequencies and angles stay in float32 in a model of bfloat16: it turns the same vectors to where the
    float32 model turns them, but for rounding.
    """
    dtype = draw.choice((torch.bfloat16, torch.float16))
    must_vanish(_narrow, implementation, draw.choice(ALL), draw.integer(0, 2**16), dtype, dtype=dtype)


def _narrow(source: Rotary, variant: str, seed: int, dtype: torch.dtype) -> Tensor:
    q, k = (x.to(dtype) for x in vectors(seed, len(EDGES)))
    narrow, wide = (
        source.rotary(built(source, case(variant, kind)), q.to(kind), k.to(kind), torch.tensor(EDGES)[None])
        for kind in (dtype, torch.float32)
    )
    return off(torch.cat(narrow, dim=1), torch.cat(wide, dim=1))


@CLAIMS.claim(examples=1)
def two_thetas_live_in_one_process(implementation: Rotary, _draw: Draw) -> None:
    """A table of angles that is kept somewhere must be kept by theta too."""
    variants = ("rope default", "rope theta_500000", "rope default")
    answers = [turn(implementation, variant, *vectors(0), everywhere(100), everywhere(100)) for variant in variants]
    for q_or_k in (0, 1):
        assert torch.equal(answers[0][q_or_k], answers[2][q_or_k])
        assert not torch.equal(answers[0][q_or_k], answers[1][q_or_k])


@CLAIMS.claim(examples=12)
def the_order_of_calls_does_not_matter(implementation: Rotary, draw: Draw) -> None:
    """A model that has seen a long text answers on a short one as a new model does."""
    variant, first = draw.choice(ALL), draw.choice((3, 256, 257, FARTHEST))
    q, k = vectors(1)
    new, handle = (fresh(implementation, case(variant)) for _ in range(2))
    expected = [implementation.rotary(new, q, k, everywhere(m)) for m in (10, 255)]
    implementation.rotary(handle, q, k, everywhere(first))
    found = [implementation.rotary(handle, q, k, everywhere(m)) for m in (10, 255)]
    for (q, k), (other_q, other_k) in zip(found, expected, strict=True):
        assert torch.equal(q, other_q)
        assert torch.equal(k, other_k)


@CLAIMS.claim(examples=15)
def each_row_is_turned_by_its_own_positions(implementation: Rotary, draw: Draw) -> None:
    """As it is alone."""
    starts = tuple(draw.integer(0, FARTHEST) for _ in range(3))
    must_vanish(_alone, implementation, draw.choice(PLAIN), draw.integer(0, 2**16), starts)


def _alone(source: Rotary, variant: str, seed: int, starts: tuple[int, ...]) -> Tensor:
    q, k = vectors(seed, rows=len(starts))
    handle, at = built(source, case(variant)), torch.tensor(starts)[:, None] + torch.arange(q.shape[2])
    together = source.rotary(handle, q, k, at)
    alone = [source.rotary(handle, q[i : i + 1], k[i : i + 1], at[i : i + 1]) for i in range(len(starts))]
    pairs = zip(together, zip(*alone, strict=True), strict=True)
    return torch.cat([off(batch, torch.cat(parts)) for batch, parts in pairs], dim=1)
