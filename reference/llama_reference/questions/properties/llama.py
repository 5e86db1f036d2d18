"""Claims about the whole model."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import CachedLlama, Config, Implementation, State
from llama_reference.questions.chunks import in_chunks
from llama_reference.questions.properties.asking import (
    LENGTH,
    PADS,
    as_it_is,
    built,
    fresh,
    hard,
    must_agree,
    must_vanish,
    off,
    one_of,
    padding,
    positions,
    real,
    rows,
    steady,
)
from llama_reference.questions.properties.block import silenced
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import HARD, Case

CLAIMS = Claims("llama")

V = HARD["vocab_size"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def text(of: Case, seed: int, length: int = LENGTH, without: int | None = None) -> Tensor:
    """Tokens (B, T), one of them avoided."""
    tokens = torch.randint(V, (rows(of), length), generator=torch.Generator().manual_seed(seed))
    return tokens if without is None else torch.where(tokens == without, (without + 1) % V, tokens)


def ask(
    source: CachedLlama, of: Case, tokens: Tensor, mask: Tensor | None = None, at: Tensor | None = None, **model: Any
) -> Tensor:
    return source.llama(built(source, of, **model), tokens, positions(of) if at is None else at, mask)


@CLAIMS.claim(examples=8, needs=("block", "rms_norm"))
def it_is_its_own_blocks_in_order(implementation: Implementation, draw: Draw) -> None:
    """Embedding, then every block once, then the norm and the head: asked one by one, and of the whole."""
    must_agree(_chained, implementation, hard(draw), draw.integer(0, 2**16))


def _chained(source: Implementation, of: Case, seed: int) -> tuple[Tensor, Tensor]:
    tokens, mask = text(of, seed), padding(of)
    handle = built(source, of)
    x = of.state[EMBEDDING][tokens]
    for layer in range(of.config["num_hidden_layers"]):
        x = source.block(handle, layer, x, positions(of), mask)
    x = source.rms_norm(handle, "model.norm", x)
    logits = F.linear(x, of.state[HEAD].to(x.dtype))
    return source.llama(handle, tokens, positions(of), mask)[real(of)], logits[real(of)]


@CLAIMS.claim(examples=8)
def with_silent_layers_the_head_reads_the_normed_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """o_proj = down_proj = 0: logits = W_head (g x / √(mean x² + eps)), x the embedding of the token alone."""
    must_vanish(_silent, implementation, one_of(draw, ("hard", "tied", "eps 1e-2")), draw.integer(0, 2**16))


_silencing = silenced("o_proj", "down_proj")


def _silent(source: CachedLlama, of: Case, seed: int) -> Tensor:
    tokens = text(of, seed)
    w = {name: weight.double() for name, weight in of.state.items()}
    x = w[EMBEDDING][tokens]
    normed = x / (x.pow(2).mean(-1, keepdim=True) + of.config["rms_norm_eps"]).sqrt() * w["model.norm.weight"]
    logits = source.llama(built(source, of, _silencing), tokens, positions(of), padding(of))
    return off(logits, F.linear(normed, w.get(HEAD, w[EMBEDDING])))[real(of)]


@CLAIMS.claim(examples=10)
def future_tokens_do_not_move_the_past(implementation: CachedLlama, draw: Draw) -> None:
    of = hard(draw)
    tokens = text(of, draw.integer(0, 2**16))
    t = draw.integer(1, LENGTH - 1)
    other = tokens.clone()
    other[:, t:] = (other[:, t:] + 1) % V
    before = ask(implementation, of, tokens)
    after = ask(implementation, of, other)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@CLAIMS.claim(examples=10, needs=("batch",))
def rows_do_not_see_each_other(implementation: CachedLlama, draw: Draw) -> None:
    """Whatever another row says, wherever it stands and however it is padded."""
    of = steady(draw)
    tokens = text(of, draw.integer(0, 2**16))
    row = draw.integer(0, rows(of) - 1)
    other, at, mask = tokens.clone(), positions(of), padding(of)
    other[row] = (tokens[row] + 1) % V
    if of.profile.positions:
        at[row] = at[row] * 2 + 1
    if mask is not None:
        mask[row, : draw.integer(1, LENGTH - 1)] = 0
    before = ask(implementation, of, tokens, padding(of))
    after = ask(implementation, of, other, mask, at)
    others = real(of)
    others[row] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@CLAIMS.claim(examples=10, needs=("padding",))
def what_padding_says_is_irrelevant(implementation: CachedLlama, draw: Draw) -> None:
    of = hard(draw)
    tokens, told = text(of, draw.integer(0, 2**16)), real(of)
    other = torch.where(told, tokens, text(of, draw.integer(0, 2**16) + 2**17))
    before = ask(implementation, of, tokens, padding(of))[told]
    after = ask(implementation, of, other, padding(of))[told]
    assert torch.equal(before, after)


@CLAIMS.claim(examples=8, needs=("padding", "positions"))
def a_padded_row_answers_as_it_does_alone(implementation: CachedLlama, draw: Draw) -> None:
    """Without its padding; the positions are the same, so the logits are."""
    must_agree(_alone, implementation, steady(draw), draw.integer(0, 2**16))


def _alone(source: CachedLlama, of: Case, seed: int) -> tuple[Tensor, Tensor]:
    tokens, at = text(of, seed), positions(of)
    rest = [(slice(i, i + 1), slice(PADS[i], None)) for i in range(rows(of))]
    alone = [ask(source, of, tokens[one], at=at[one])[0] for one in rest]
    return ask(source, of, tokens, padding(of))[real(of)], torch.cat(alone)


@CLAIMS.claim(examples=8, needs=("cache",))
def any_split_over_the_cache_equals_one_pass(implementation: CachedLlama, draw: Draw) -> None:
    cuts = {draw.integer(1, 2 * LENGTH - 1) for _ in range(draw.integer(1, 6))}
    edges = (0, *sorted(cuts), 2 * LENGTH)
    must_agree(_split, implementation, steady(draw), draw.integer(0, 2**16), edges)


def _split(source: CachedLlama, of: Case, seed: int, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    T = edges[-1]
    tokens = text(of, seed, T)
    at = positions(of, T)
    mask = padding(of, T)
    told = real(of, T)
    handle = built(source, of)
    cache = source.new_cache(handle, rows(of), T)

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        return source.llama(handle, x, positions, mask, cache)

    parts = in_chunks(call, edges, tokens, at, mask)
    return source.llama(handle, tokens, at, mask)[told], parts[told]


@CLAIMS.claim(examples=1)
def two_calls_give_the_same_bits(implementation: CachedLlama, draw: Draw) -> None:
    of = hard(draw)
    handle = fresh(implementation, of)
    first = implementation.llama(handle, text(of, 0), positions(of), padding(of))
    implementation.llama(handle, text(of, 1, 2 * LENGTH), positions(of, 2 * LENGTH), None)
    assert torch.equal(first, implementation.llama(handle, text(of, 0), positions(of), padding(of)))


@CLAIMS.claim(examples=8, needs=("positions", "batch"))
def only_distances_count_each_rows_own(implementation: CachedLlama, draw: Draw) -> None:
    """A shift of all positions of a row changes nothing; larger distances in a row change its answer."""
    of = steady(draw)
    seed = draw.integer(0, 2**16)
    row = draw.integer(0, rows(of) - 1)
    must_agree(_shifted, implementation, of, seed, draw.integer(1, 300))
    far = positions(of)
    far[row] *= 2
    far[row] += 1
    near = ask(implementation, of, text(of, seed), at=positions(of))
    stretched = ask(implementation, of, text(of, seed), at=far)
    others = [i for i in range(rows(of)) if i != row]
    assert torch.equal(near[others], stretched[others])
    assert not torch.equal(near[row], stretched[row])


def _shifted(source: CachedLlama, of: Case, seed: int, shift: int) -> tuple[Tensor, Tensor]:
    here = ask(source, of, text(of, seed), at=positions(of))
    there = ask(source, of, text(of, seed), at=positions(of) + shift)
    return here, there


@CLAIMS.claim(examples=8)
def renamed_tokens_have_renamed_logits(implementation: CachedLlama, draw: Draw) -> None:
    """Rows of the embedding and of the head reordered, and the tokens with them."""
    must_agree(_renamed, implementation, hard(draw), draw.integer(0, 2**16))


OLD = torch.randperm(V, generator=torch.Generator().manual_seed(0))  # new name -> old name
NEW = OLD.argsort()


def _renamed(source: CachedLlama, of: Case, seed: int) -> tuple[Tensor, Tensor]:
    tokens = text(of, seed)
    return ask(source, of, tokens), ask(source, of, NEW[tokens], edit=_rename)[..., NEW]


def _rename(config: Config, state: State) -> tuple[Config, State]:
    return config, {name: w[OLD] if name in (EMBEDDING, HEAD) else w for name, w in state.items()}


@CLAIMS.claim(examples=5, needs=("tied",))
def a_tied_head_is_the_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """Another vector for a token that the text lacks moves the logits of this token, and of no other."""
    token = draw.integer(0, V - 1)
    before, after = _with_another_vector(implementation, one_of(draw, ("tied",)), token)
    moved = (before != after).flatten(0, 1).any(0)
    assert torch.equal(moved, torch.arange(V) == token)


@CLAIMS.claim(examples=5)
def an_untied_head_is_not_the_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """Another vector for a token that the text lacks moves nothing."""
    before, after = _with_another_vector(implementation, hard(draw), draw.integer(0, V - 1))
    assert torch.equal(before, after)


def _with_another_vector(implementation: CachedLlama, of: Case, token: int) -> tuple[Tensor, Tensor]:
    def edit(config: Config, state: State) -> tuple[Config, State]:
        other = state[EMBEDDING].clone()
        other[token] *= -7
        return config, state | {EMBEDDING: other}

    tokens = text(of, 0, without=token)
    before = implementation.llama(fresh(implementation, of, as_it_is), tokens, positions(of), None)
    after = implementation.llama(fresh(implementation, of, edit), tokens, positions(of), None)
    return before, after


@CLAIMS.claim(examples=1, needs=("tied",))
def tied_is_one_tensor(implementation: Implementation, draw: Draw) -> None:
    """Training the embedding trains the head: there is one parameter, and a step on it moves logits too."""
    of = one_of(draw, ("tied",))
    handle, token = fresh(implementation, of), 5
    parameters = implementation.parameters(handle)
    assert HEAD not in parameters
    tokens = text(of, 0, without=token)
    before = implementation.llama(handle, tokens, positions(of), None)
    parameters[EMBEDDING].data[token] *= -7
    moved = (before != implementation.llama(handle, tokens, positions(of), None)).flatten(0, 1).any(0)
    assert torch.equal(moved, torch.arange(V) == token)


@CLAIMS.claim(examples=1)
def logits_may_be_of_any_size(implementation: CachedLlama, draw: Draw) -> None:
    """They are linear in the head, to the bit: neither capped nor normalised."""

    of = hard(draw)

    def louder(config: Config, state: State) -> tuple[Config, State]:
        return config, state | {HEAD: state[HEAD] * 2**10}

    quiet = ask(implementation, of, text(of, 0), edit=as_it_is)
    loud = ask(implementation, of, text(of, 0), edit=louder)
    assert torch.equal(quiet * 2**10, loud)
