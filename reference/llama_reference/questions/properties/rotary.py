"""Claims about the rotary embedding. Channels i and i + H/2 form a plane, turned by p θ_i at position p."""

import math
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Handle, Rotary
from llama_reference.questions.properties.asking import built, case, fresh, must_vanish, numbers, off, one_of
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import HARD, ROPES, SHORT, Case, within
from llama_reference.standard.profile import Profile

CLAIMS = Claims("rotary")

# the types whose factor on cosine and sine is 1, so that turning keeps lengths
PLAIN = ("hard", "rope default", "rope theta_500000", "rope linear")
SHARPENED = ("rope yarn", "rope longrope")
ALL = ("hard", *(f"rope {name}" for name in ROPES if name != "llama3"))
EDGES = (255, 256, 257, 2047, 2048, 4095)  # bfloat16 holds every whole number up to 256
FARTHEST = 2000
MANY = 16  # the rounding of one angle may be lucky


def farthest(profile: Profile) -> int:
    """The largest position that is asked: a Llama that counts from 0 may have no further ones."""
    return FARTHEST if profile.positions else HARD["max_position_embeddings"] - 1


def plain(draw: Draw) -> Case:
    """One of those models that keep lengths."""
    kept = ("llama3", "linear", "default")
    offered = within(PLAIN, draw.profile)
    kinds = {v: case(v, profile=draw.profile).config["rope_parameters"]["rope_type"] for v in offered}
    return one_of(draw, [v for v in offered if kinds[v] in kept])


def vectors(of: Case, seed: int, T: int = MANY, rows: int = 1) -> tuple[Tensor, Tensor]:
    """Queries (rows, N, T, H) and keys (rows, G, T, H)."""
    N, G, H = sizes(of)
    return numbers(seed, rows, N, T, H), numbers(seed + 1, rows, G, T, H)


def sizes(of: Case) -> tuple[int, int, int]:
    """N, G, H."""
    return of.config["num_attention_heads"], of.config["num_key_value_heads"], of.config["head_dim"]


def somewhere(of: Case, seed: int) -> Tensor:
    """A position for each token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(farthest(of.profile) + 1, (1, MANY), generator=generator)


def everywhere(p: int) -> Tensor:
    """The same position for every token."""
    return torch.full((1, MANY), p)


def rotated(source: Rotary, handle: Handle, of: Case, q: Tensor, k: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Turned to any positions; where these are counted from 0, each token is put at its place in a row of its own."""
    if of.profile.positions:
        return source.rotary(handle, q, k, at)
    B, T = at.shape
    counted = torch.arange(int(at.max()) + 1)

    def spread(x: Tensor) -> Tensor:
        rows = x.new_zeros(B * T, x.shape[1], len(counted), x.shape[3])
        rows[range(B * T), :, at.flatten()] = x.transpose(1, 2).flatten(0, 1)
        return rows

    def gathered(rows: Tensor) -> Tensor:
        return rows[range(B * T), :, at.flatten()].unflatten(0, (B, T)).transpose(1, 2)

    chunks = (B * T,) if of.profile.batch else (1,) * (B * T)
    pairs = zip(spread(q).split(chunks), spread(k).split(chunks), strict=True)
    parts = [source.rotary(handle, *pair, counted.repeat(len(pair[0]), 1)) for pair in pairs]
    turned_q, turned_k = zip(*parts, strict=True)
    return gathered(torch.cat(turned_q)), gathered(torch.cat(turned_k))


def turn(source: Rotary, of: Case, q: Tensor, k: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Queries turned to positions m, keys to positions n."""
    handle = built(source, of)
    return rotated(source, handle, of, q, k, m)[0], rotated(source, handle, of, q, k, n)[1]


def rates(source: Rotary, of: Case, length: int = 2) -> Tensor:
    """The angles (N + G, H/2) by which position 1 turns each plane in each head, within a call of that length."""
    N, G, H = sizes(of)
    half = H // 2
    q = torch.zeros(1, N, half + 1, H)
    k = torch.zeros(1, G, half + 1, H)
    q[:, :, :half, :half] = k[:, :, :half, :half] = torch.eye(half)  # token i is the unit vector of plane i
    at = torch.ones(1, half + 1, dtype=torch.long)
    at[0, -1] = length - 1
    turned = torch.cat(rotated(source, built(source, of), of, q, k, at), dim=1)[0, :, :half].double()
    along = turned[..., slice(half)].diagonal(dim1=-2, dim2=-1)
    across = turned[..., slice(half, None)].diagonal(dim1=-2, dim2=-1)
    return torch.atan2(across, along)


def powers(of: Case, theta: float = 10000.0) -> Tensor:
    """θ_i = θ^(-2i/H), in float64."""
    H = of.config["head_dim"]
    return theta ** (-2 * torch.arange(H // 2, dtype=torch.float64) / H)


def rope(of: Case) -> dict[str, Any]:
    return of.config["rope_parameters"]


def unscaled(source: Rotary, profile: Profile) -> Tensor:
    """The rates of the default type, its own where it has it."""
    if "default" in profile.rope_type:
        return rates(source, case("rope default", profile=profile))
    return powers(case(profile=profile))


@CLAIMS.claim(examples=1, needs=("default",))
def rates_are_the_powers_of_theta(implementation: Rotary, draw: Draw) -> None:
    """θ_i = θ^(-2i/H): the first plane turns by one radian a position, forwards."""
    for variant in ("rope default", "rope theta_500000"):
        must_vanish(_powers, implementation, case(variant, profile=draw.profile))


def _powers(source: Rotary, of: Case) -> Tensor:
    return rates(source, of) - powers(of, rope(of)["rope_theta"])


@CLAIMS.claim(examples=1, needs=("linear",))
def linear_scaling_divides_every_rate(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_linear, implementation, case("rope linear", profile=draw.profile))


def _linear(source: Rotary, of: Case) -> Tensor:
    return rates(source, of) - unscaled(source, of.profile) / rope(of)["factor"]


@CLAIMS.claim(examples=1, needs=("llama3",))
def llama3_keeps_fast_planes_and_slows_down_slow_ones(implementation: Rotary, draw: Draw) -> None:
    """A plane that turns n times within the original length keeps the share (n - low) / (high - low) of its rate, at
    least 0 and at most 1, and the factor divides the rest.
    """
    must_vanish(_llama3, implementation, case(profile=draw.profile))


def _llama3(source: Rotary, of: Case) -> Tensor:
    given, default = rope(of), unscaled(source, of.profile)
    low = given["low_freq_factor"]
    high = given["high_freq_factor"]
    turns = given["original_max_position_embeddings"] * default / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return rates(source, of) - default * (kept + (1 - kept) / given["factor"])


@CLAIMS.claim(examples=1, needs=("yarn",))
def yarn_keeps_fast_planes_and_slows_down_slow_ones(implementation: Rotary, draw: Draw) -> None:
    """Along a ramp over the planes, from the one of 32 turns to the one of 1 turn, rounded outwards."""
    must_vanish(_yarn, implementation, case("rope yarn", profile=draw.profile))


def _yarn(source: Rotary, of: Case) -> Tensor:
    given, half = rope(of), of.config["head_dim"] // 2

    def plane(turns: int) -> float:
        """The plane that turns so often within the original length."""
        span = given["original_max_position_embeddings"] / (2 * math.pi * turns)
        return half * math.log(span) / math.log(given["rope_theta"])

    first, last = max(math.floor(plane(32)), 0), math.ceil(plane(1))
    kept = 1 - ((torch.arange(half) - first) / (last - first)).clamp(0, 1).double()
    return rates(source, of) - unscaled(source, of.profile) * (kept + (1 - kept) / given["factor"])


@CLAIMS.claim(examples=1, needs=("longrope",))
def longrope_divides_each_rate_by_its_factor(implementation: Rotary, draw: Draw) -> None:
    """By the short one up to the original length, by the long one beyond."""
    of = case("rope longrope", profile=draw.profile)
    original = rope(of)["original_max_position_embeddings"]
    for length in (2, original, original + 1, min(1000, farthest(draw.profile) + 1)):
        must_vanish(_longrope, implementation, of, length)


def _longrope(source: Rotary, of: Case, length: int) -> Tensor:
    given = rope(of)
    factors = given["long_factor" if length > given["original_max_position_embeddings"] else "short_factor"]
    return rates(source, of, length) - unscaled(source, of.profile) / torch.tensor(factors).double()


@CLAIMS.claim(examples=1)
def where_cosines_are_sharpened_position_0_shows_by_how_much(implementation: Rotary, draw: Draw) -> None:
    """By 0.1 ln s + 1 in yarn, by √(1 + ln s / ln L) in longrope; s the factor, L the original length."""
    if not (offered := within(SHARPENED, draw.profile)):
        raise NotImplementedError("rope_type yarn, longrope")
    for variant in offered:
        must_vanish(_sharpened, implementation, case(variant, profile=draw.profile))


def _sharpened(source: Rotary, of: Case) -> Tensor:
    s = rope(of)["factor"]
    original = rope(of)["original_max_position_embeddings"]
    yarn = rope(of)["rope_type"] == "yarn"
    exact = 0.1 * math.log(s) + 1 if yarn else math.sqrt(1 + math.log(s) / math.log(original))
    before = vectors(of, 0)
    pairs = zip(turn(source, of, *before, everywhere(0), everywhere(0)), before, strict=True)
    return torch.cat([off(after, x.double() * exact) for after, x in pairs], dim=1)


@CLAIMS.claim()
def scores_depend_on_the_distance_only(implementation: Rotary, draw: Draw) -> None:
    of, seed = plain(draw), draw.integer(0, 2**16)
    must_vanish(_shifted, implementation, of, seed, draw.integer(1, farthest(draw.profile)))


def _shifted(source: Rotary, of: Case, seed: int, shift: int) -> Tensor:
    q, k = vectors(of, seed)
    m = somewhere(of, seed)
    n = somewhere(of, seed + 1)
    if not of.profile.positions:  # as near to the beginning as there are positions left to shift by
        m = m % (farthest(of.profile) + 1 - shift)
        n = n % (farthest(of.profile) + 1 - shift)
    here = _scores(*turn(source, of, q, k, m, n))
    there = _scores(*turn(source, of, q, k, m + shift, n + shift))
    return (here - there) / (q[:, : k.shape[1]].norm(dim=-1) * k.norm(dim=-1))


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Of each key head with the query head of the same number: (B, G, T)."""
    return (q[:, : k.shape[1]].double() * k.double()).sum(-1)


@CLAIMS.claim()
def lengths_are_kept(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_lengths, implementation, plain(draw), draw.integer(0, 2**16))


def _lengths(source: Rotary, of: Case, seed: int) -> Tensor:
    before, m = vectors(of, seed), somewhere(of, seed)
    after = turn(source, of, *before, m, m)
    norms = [torch.cat(pair, dim=1).double().norm(dim=-1) for pair in (after, before)]
    return norms[0] / norms[1] - 1


@CLAIMS.claim()
def turns_add_up(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_twice, implementation, plain(draw), draw.integer(0, 2**16))


def _twice(source: Rotary, of: Case, seed: int) -> Tensor:
    q, k = vectors(of, seed)
    m = somewhere(of, seed)
    n = somewhere(of, seed + 1)
    if not of.profile.positions:
        m, n = m // 2, n // 2
    once = turn(source, of, q, k, m + n, m + n)
    twice = turn(source, of, *turn(source, of, q, k, m, m), n, n)
    return off(torch.cat(twice, dim=1), torch.cat(once, dim=1))


@CLAIMS.claim()
def queries_and_keys_turn_alike_in_every_head(implementation: Rotary, draw: Draw) -> None:
    must_vanish(_alike, implementation, one_of(draw, ALL), draw.integer(0, 2**16))


def _alike(source: Rotary, of: Case, seed: int) -> Tensor:
    N, G, H = sizes(of)
    x, m = numbers(seed, 1, 1, MANY, H), somewhere(of, seed)
    q, k = turn(source, of, x.expand(-1, N, -1, -1), x.expand(-1, G, -1, -1), m, m)
    return torch.cat((off(q, q[:, :1]), off(k, q[:, :1])), dim=1)


@CLAIMS.claim(examples=4)
def position_0_turns_nothing(implementation: Rotary, draw: Draw) -> None:
    of = plain(draw)
    q, k = vectors(of, 0)
    turned_q, turned_k = turn(implementation, of, q, k, everywhere(0), everywhere(0))
    assert torch.equal(turned_q, q)
    assert torch.equal(turned_k, k)


@CLAIMS.claim()
def a_channel_mixes_with_the_one_half_a_head_away_only(implementation: Rotary, draw: Draw) -> None:
    """A unit vector along channel i stays in the plane of channels i and i + H/2 (mod H)."""
    hard = case(profile=draw.profile)
    N, G, H = sizes(hard)
    channel = draw.integer(0, H - 1)
    m = somewhere(hard, draw.integer(0, 2**16))
    q = torch.zeros(1, N, MANY, H)
    k = torch.zeros(1, G, MANY, H)
    q[..., channel] = k[..., channel] = 1
    for turned in turn(implementation, one_of(draw, ALL), q, k, m, m):
        turned[..., [channel, (channel + H // 2) % H]] = 0
        assert torch.equal(turned, torch.zeros_like(turned))


@CLAIMS.claim(needs=("dynamic",))
def dynamic_scaling_slows_down_the_slowest_plane_by_the_stretch(implementation: Rotary, draw: Draw) -> None:
    """Of a call of n positions by s n / L - (s - 1), beyond the trained length L; the first plane not at all, those
    between by powers of it; and nothing within L.
    """
    lengths = (2, 100, 256, 257, 300, 1000, FARTHEST) if draw.profile.positions else (2, SHORT, SHORT + 1, 100, 256)
    must_vanish(_dynamic, implementation, case("rope dynamic", profile=draw.profile), draw.choice(lengths))


def _dynamic(source: Rotary, of: Case, length: int) -> Tensor:
    trained = of.config["max_position_embeddings"]
    s = rope(of)["factor"]
    half = of.config["head_dim"] // 2
    stretch = s * max(length, trained) / trained - (s - 1)
    share = torch.arange(half, dtype=torch.float64) / (half - 1)
    return rates(source, of, length) - unscaled(source, of.profile) * stretch**-share


@CLAIMS.claim(needs=("bfloat16", "float16"))
def narrow_models_turn_as_exactly_as_wide_ones(implementation: Rotary, draw: Draw) -> None:
    """Positions, frequencies and angles stay in float32 in a model of bfloat16: it turns the same vectors to where the
    float32 model turns them, but for rounding.
    """
    dtype = draw.choice((torch.bfloat16, torch.float16))
    must_vanish(_narrow, implementation, one_of(draw, ALL), draw.integer(0, 2**16), dtype, dtype=dtype)


def _narrow(source: Rotary, of: Case, seed: int, dtype: torch.dtype) -> Tensor:
    edges = torch.tensor([[p for p in EDGES if p <= max(farthest(of.profile), EDGES[-1] * of.profile.positions)]])
    q, k = vectors(of, seed, edges.shape[1])

    def turned(kind: torch.dtype) -> Tensor:
        """What dtype holds of q and k, turned in `kind`."""
        handle = built(source, case(of.variant, kind, of.seed, of.profile))
        return torch.cat(rotated(source, handle, of, q.to(dtype).to(kind), k.to(dtype).to(kind), edges), dim=1)

    return off(turned(dtype), turned(torch.float32))


@CLAIMS.claim(examples=1, needs=("default",))
def two_thetas_live_in_one_process(implementation: Rotary, draw: Draw) -> None:
    """A table of angles that is kept somewhere must be kept by theta too."""
    variants = ("rope default", "rope theta_500000", "rope default")
    models = [case(variant, profile=draw.profile) for variant in variants]
    answers = [turn(implementation, of, *vectors(of, 0), everywhere(100), everywhere(100)) for of in models]
    for q_or_k in (0, 1):
        assert torch.equal(answers[0][q_or_k], answers[2][q_or_k])
        assert not torch.equal(answers[0][q_or_k], answers[1][q_or_k])


@CLAIMS.claim(examples=12)
def the_order_of_calls_does_not_matter(implementation: Rotary, draw: Draw) -> None:
    """A model that has seen a long text answers on a short one as a new model does."""
    of, far = one_of(draw, ALL), farthest(draw.profile)
    first = draw.choice((3, 256, 257, FARTHEST) if draw.profile.positions else (3, SHORT, far))
    q, k = vectors(of, 1)
    new = fresh(implementation, of)
    handle = fresh(implementation, of)
    expected = [rotated(implementation, new, of, q, k, everywhere(m)) for m in (10, 255)]
    rotated(implementation, handle, of, q, k, everywhere(first))
    found = [rotated(implementation, handle, of, q, k, everywhere(m)) for m in (10, 255)]
    for (q, k), (other_q, other_k) in zip(found, expected, strict=True):
        assert torch.equal(q, other_q)
        assert torch.equal(k, other_k)


@CLAIMS.claim(examples=15, needs=("positions", "batch"))
def each_row_is_turned_by_its_own_positions(implementation: Rotary, draw: Draw) -> None:
    """As it is alone."""
    starts = tuple(draw.integer(0, FARTHEST) for _ in range(3))
    must_vanish(_alone, implementation, plain(draw), draw.integer(0, 2**16), starts)


def _alone(source: Rotary, of: Case, seed: int, starts: tuple[int, ...]) -> Tensor:
    q, k = vectors(of, seed, rows=len(starts))
    handle = built(source, of)
    at = torch.tensor(starts)[:, None] + torch.arange(q.shape[2])
    together = source.rotary(handle, q, k, at)
    alone = [source.rotary(handle, q[i : i + 1], k[i : i + 1], at[i : i + 1]) for i in range(len(starts))]
    pairs = zip(together, zip(*alone, strict=True), strict=True)
    return torch.cat([off(batch, torch.cat(parts)) for batch, parts in pairs], dim=1)
