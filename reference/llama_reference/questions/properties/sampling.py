"""Claims about the distribution of the next token."""

import math
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Sampling
from llama_reference.questions.checks.sampling import KNOBS, OFF, SCALES
from llama_reference.questions.properties.asking import must_agree, must_vanish, off
from llama_reference.questions.properties.claims import Claims, Draw

CLAIMS = Claims("sampling")

V, ROWS = 101, 5
HALVES = torch.tensor([[math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]])
EQUALS = torch.zeros(1, 8)
Knobs = dict[str, Any]

KEPT_OF_HALVES: list[tuple[Knobs, list[int]]] = [
    ({"top_p": 1e-9}, [0]),  # in float32, 1 - p is 1
    ({"top_p": 1e-6}, [0]),
    ({"top_p": 0.5}, [0]),  # reaches the share exactly: one more would be too many
    ({"top_p": 0.51}, [0, 1]),
    ({"top_p": 0.75}, [0, 1]),
    ({"top_p": 0.8}, [0, 1, 3]),  # of the equals, the last
    ({"top_p": 0.875}, [0, 1, 3]),
    ({"top_p": 1.0}, [0, 1, 2, 3]),
    ({"top_k": 1}, [0]),
    ({"top_k": 2}, [0, 1]),
    ({"top_k": 3}, [0, 1, 2, 3]),  # a tie for the third place
    ({"top_k": 9}, [0, 1, 2, 3]),
    ({"min_p": 0.0}, [0, 1, 2, 3]),
    ({"min_p": 0.25}, [0, 1, 2, 3]),  # exactly a quarter as likely is enough
    ({"min_p": 0.26}, [0, 1]),
    ({"min_p": 0.5}, [0, 1]),
    ({"min_p": 1.0}, [0]),
    ({"top_k": 2, "top_p": 0.6}, [0]),  # 0.5 of 0.75 is 2/3
    ({"top_p": 0.6, "min_p": 0.4}, [0, 1]),  # the other way round, 2/3 would do
    ({"top_p": 0.6, "temperature": 0.5}, [0]),  # squared and renormalised: 16/22
    ({"min_p": 0.3, "temperature": 0.5}, [0]),
    ({"top_p": 0.7, "temperature": 2.0}, [0, 1, 3]),
    ({"temperature": 0.0, "top_k": 3}, [0]),
]
KEPT_OF_EQUALS: list[tuple[Knobs, list[int]]] = [
    ({"top_k": 1}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"top_k": 5}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"top_p": 1e-9}, [7]),
    ({"top_p": 0.5}, [4, 5, 6, 7]),
    ({"top_p": 0.51}, [3, 4, 5, 6, 7]),
    ({"min_p": 1.0}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"temperature": 0.0}, [0]),
]


def ask(source: Sampling, logits: Tensor, tokens: Tensor | None = None, **given: Any) -> Tensor:
    """`source`'s probabilities, everything off that is not given."""
    tokens = torch.zeros(len(logits), 1, dtype=torch.long) if tokens is None else tokens
    return source.sampling(logits, tokens, **OFF | given)


def situation(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits without ties, and a text for every row."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.stack([torch.randperm(V, generator=generator) for _ in range(ROWS)]) / V * 4 - 2
    return logits * scale, torch.randint(V, (ROWS, 30), generator=generator)


def support(probabilities: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in probabilities]


@CLAIMS.claim(examples=1)
def exactly_these_are_kept_of_a_half_a_quarter_and_two_eighths(implementation: Sampling, _draw: Draw) -> None:
    for given, kept in KEPT_OF_HALVES:
        _must_keep(implementation, HALVES, given, kept)


@CLAIMS.claim(examples=1)
def exactly_these_are_kept_of_eight_equals(implementation: Sampling, _draw: Draw) -> None:
    for given, kept in KEPT_OF_EQUALS:
        _must_keep(implementation, EQUALS, given, kept)


def _must_keep(implementation: Sampling, logits: Tensor, given: Knobs, kept: list[int]) -> None:
    """As many of each: which of equally likely tokens stays is transformers' choice, and nobody's law."""
    [found] = support(ask(implementation, logits, **given))
    likely = logits[0].tolist()
    as_likely = sorted(likely[i] for i in found) == sorted(likely[i] for i in kept)
    assert as_likely, f"{given} keeps {found}, expected {kept}"


@CLAIMS.claim()
def with_everything_off_it_is_softmax(implementation: Sampling, draw: Draw) -> None:
    """Also where a knob is on, and so wide open that it does nothing."""
    nothing: list[Knobs] = [{}, {"top_k": V}, {"top_p": 1.0}, {"min_p": 0.0}, {"repetition_penalty": 1.0}]
    for given in nothing:
        must_vanish(_softmax, implementation, draw.integer(0, 2**16), draw.choice(SCALES), *given.items())


def _softmax(source: Sampling, seed: int, scale: float, *given: tuple[str, Any]) -> Tensor:
    logits, tokens = situation(seed, scale)
    return off(ask(source, logits, tokens, **dict(given)), logits.double().softmax(-1))


@CLAIMS.claim()
def temperature_divides_logits(implementation: Sampling, draw: Draw) -> None:
    tau = draw.choice((0.3, 0.7, 1.5, 4.0))
    must_vanish(_tempered, implementation, draw.integer(0, 2**16), draw.choice(SCALES), tau)


def _tempered(source: Sampling, seed: int, scale: float, tau: float) -> Tensor:
    logits, tokens = situation(seed, scale)
    return off(ask(source, logits, tokens, temperature=tau), (logits.double() / tau).softmax(-1))


@CLAIMS.claim()
def a_small_temperature_is_greedy(implementation: Sampling, draw: Draw) -> None:
    logits, _ = situation(draw.integer(0, 2**16))
    greedy = torch.eye(V)[logits.argmax(-1)]
    for tau in (0.0, 1e-6, 1e-4):
        assert torch.equal(ask(implementation, logits, temperature=tau), greedy)


@CLAIMS.claim()
def greedy_knows_no_filter(implementation: Sampling, draw: Draw) -> None:
    logits, tokens = situation(draw.integer(0, 2**16), draw.choice(SCALES))
    filters: list[Knobs] = [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}]
    found = ask(implementation, logits, tokens, temperature=0.0, **draw.choice(filters))
    assert torch.equal(found, torch.eye(V)[logits.argmax(-1)])


@CLAIMS.claim()
def what_is_kept_keeps_its_odds(implementation: Sampling, draw: Draw) -> None:
    """Filters only take away: what remains is softmax over it, and it is what is likeliest."""
    filters = [given for given in KNOBS.values() if given and not {"temperature", "repetition_penalty"} & given.keys()]
    seed = draw.integer(0, 2**16)
    scale = draw.choice(SCALES)
    given = draw.choice(filters)
    must_vanish(_filtered, implementation, seed, scale, *given.items())
    logits, tokens = situation(seed, scale)
    found = ask(implementation, logits, tokens, **given)
    lowest_kept = torch.where(found > 0, logits, math.inf).amin(-1)
    underflown = logits.double().softmax(-1) < torch.finfo(torch.float32).tiny
    dropped = torch.where((found > 0) | underflown, -math.inf, logits).amax(-1)
    assert (dropped < lowest_kept).all()


def _filtered(source: Sampling, seed: int, scale: float, *given: tuple[str, Any]) -> Tensor:
    logits, tokens = situation(seed, scale)
    found = ask(source, logits, tokens, **dict(given))
    return off(found, logits.double().masked_fill(found == 0, -math.inf).softmax(-1))


@CLAIMS.claim()
def top_k_keeps_the_k_likeliest(implementation: Sampling, draw: Draw) -> None:
    k = draw.integer(1, V)
    logits, tokens = situation(draw.integer(0, 2**16))
    found = ask(implementation, logits, tokens, top_k=k)
    assert torch.equal(found > 0, logits >= logits.topk(k).values[:, -1:])


@CLAIMS.claim()
def top_p_keeps_the_fewest_that_reach_the_share(implementation: Sampling, draw: Draw) -> None:
    """With the last of them they have the share, without it they lack it; shares half way between two sums of
    probabilities are asked for, which rounding does not confuse.
    """
    logits, tokens = situation(draw.integer(0, 2**16))
    n = draw.integer(1, V - 1)
    sums = logits[0].double().softmax(-1).sort(descending=True).values.cumsum(0)  # all rows have the same numbers
    share = (sums[n - 1] + sums[n - 2 if n > 1 else 0] * (n > 1)).item() / 2
    found = ask(implementation, logits, tokens, top_p=share)
    assert ((found > 0).sum(-1) == n).all()
    assert torch.equal(found > 0, logits >= logits.topk(n).values[:, -1:])


@CLAIMS.claim()
def min_p_keeps_what_is_at_least_that_share_as_likely_as_the_likeliest(implementation: Sampling, draw: Draw) -> None:
    """p / p_max = exp(z - z_max); the distribution's own height does not matter."""
    share = draw.integer(1, 20) / 20.5
    logits, tokens = situation(draw.integer(0, 2**16), draw.choice((1.0, 3.0)))
    found = ask(implementation, logits, tokens, min_p=share)
    assert torch.equal(found > 0, logits >= logits.amax(-1, keepdim=True) + math.log(share))


@CLAIMS.claim()
def half_precision_logits_are_widened_first(implementation: Sampling, draw: Draw) -> None:
    logits, tokens = situation(draw.integer(0, 2**16))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = ask(implementation, logits.to(dtype), tokens, **KNOBS["all"])
        wide = ask(implementation, logits.to(dtype).float(), tokens, **KNOBS["all"])
        assert narrow.dtype == torch.float32
        assert torch.equal(narrow, wide)


@CLAIMS.claim()
def probabilities_sum_to_one_and_the_likeliest_stays(implementation: Sampling, draw: Draw) -> None:
    seed = draw.integer(0, 2**16)
    scale = draw.choice(SCALES)
    given = draw.choice([*KNOBS.values()])
    must_vanish(_surplus, implementation, seed, scale, *given.items())
    logits, tokens = situation(seed, scale)
    found = ask(implementation, logits, tokens, **given)
    assert (found >= 0).all()
    if not given.get("repetition_penalty"):
        assert torch.equal(found.argmax(-1), logits.argmax(-1))


def _surplus(source: Sampling, seed: int, scale: float, *given: tuple[str, Any]) -> Tensor:
    return ask(source, *situation(seed, scale), **dict(given)).double().sum(-1) - 1


@CLAIMS.claim()
def rows_do_not_see_each_other(implementation: Sampling, draw: Draw) -> None:
    logits, tokens = situation(draw.integer(0, 2**16), draw.choice(SCALES))
    given = draw.choice([*KNOBS.values()])
    row = draw.integer(0, ROWS - 1)
    before = ask(implementation, logits, tokens, **given)
    changed, other = logits.clone(), tokens.clone()
    changed[row], other[row] = -logits[row], V - 1 - tokens[row]
    after = ask(implementation, changed, other, **given)
    others = [i for i in range(ROWS) if i != row]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@CLAIMS.claim()
def the_names_of_tokens_do_not_matter(implementation: Sampling, draw: Draw) -> None:
    """Tokens renamed in the logits and in the text: the same probabilities under the new names."""
    seed = draw.integer(0, 2**16)
    scale = draw.choice(SCALES)
    given = draw.choice([*KNOBS.values()])
    here, there = _both_names(implementation, seed, scale, **given)
    assert support(here) == support(there)
    must_agree(_renamed, implementation, seed, scale, *given.items())


def _renamed(source: Sampling, seed: int, scale: float, *given: tuple[str, Any]) -> tuple[Tensor, Tensor]:
    return _both_names(source, seed, scale, **dict(given))


def _both_names(source: Sampling, seed: int, scale: float, **given: Any) -> tuple[Tensor, Tensor]:
    logits, tokens = situation(seed, scale)
    new = torch.randperm(V, generator=torch.Generator().manual_seed(seed + 1))
    old = new.argsort()
    return ask(source, logits, tokens, **given), ask(source, logits[:, old], new[tokens], **given)[:, new]


@CLAIMS.claim()
def nobody_writes_into_the_logits(implementation: Sampling, draw: Draw) -> None:
    logits, tokens = situation(draw.integer(0, 2**16))
    kept = logits.clone(), tokens.clone()
    ask(implementation, logits, tokens, **draw.choice([*KNOBS.values()]))
    assert torch.equal(logits, kept[0])
    assert torch.equal(tokens, kept[1])


@CLAIMS.claim()
def a_penalty_makes_what_was_said_less_likely_and_counts_it_once(implementation: Sampling, draw: Draw) -> None:
    """A positive logit is divided by it, a negative one multiplied, however often the token was said."""
    seed = draw.integer(0, 2**16)
    penalty = draw.choice((0.8, 1.1, 1.5, 4.0))
    must_vanish(_penalised, implementation, seed, penalty)
    logits, tokens = situation(seed)
    once = ask(implementation, logits, tokens, repetition_penalty=penalty)
    again = ask(implementation, logits, tokens.repeat(1, 3).flip(1), repetition_penalty=penalty)
    assert torch.equal(once, again)


def _penalised(source: Sampling, seed: int, penalty: float) -> Tensor:
    logits, tokens = situation(seed)
    said = torch.zeros_like(logits).scatter(1, tokens, 1.0).bool()
    z = logits.double()
    exact = torch.where(said, torch.where(z < 0, z * penalty, z / penalty), z).softmax(-1)
    return off(ask(source, logits, tokens, repetition_penalty=penalty), exact)
