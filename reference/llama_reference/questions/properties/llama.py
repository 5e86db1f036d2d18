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
    ROWS,
    as_it_is,
    built,
    case,
    fresh,
    must_agree,
    must_vanish,
    off,
    padding,
    positions,
)
from llama_reference.questions.properties.block import silenced
from llama_reference.questions.properties.claims import Claims, Draw

CLAIMS = Claims("llama")

V = case().config["vocab_size"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def text(seed: int, length: int = LENGTH, without: int | None = None) -> Tensor:
    """Tokens (B, T), one of them avoided."""
    tokens = torch.randint(V, (ROWS, length), generator=torch.Generator().manual_seed(seed))
    return tokens if without is None else torch.where(tokens == without, (without + 1) % V, tokens)


def ask(
    source: CachedLlama, tokens: Tensor, mask: Tensor | None = None, at: Tensor | None = None, **model: Any
) -> Tensor:
    return source.llama(built(source, case(), **model), tokens, positions() if at is None else at, mask)


@CLAIMS.claim(examples=8)
def it_is_its_own_blocks_in_order(implementation: Implementation, draw: Draw) -> None:
    """Embedding, then every block once, then the norm and the head: asked one by one, and of the whole."""
    must_agree(_chained, implementation, draw.integer(0, 2**16))


def _chained(source: Implementation, seed: int) -> tuple[Tensor, Tensor]:
    tokens, mask, setting = text(seed), padding(), case()
    handle = built(source, setting)
    x = setting.state[EMBEDDING][tokens]
    for layer in range(setting.config["num_hidden_layers"]):
        x = source.block(handle, layer, x, positions(), mask)
    x = source.rms_norm(handle, "model.norm", x)
    logits = F.linear(x, setting.state[HEAD].to(x.dtype))
    return source.llama(handle, tokens, positions(), mask)[mask.bool()], logits[mask.bool()]


@CLAIMS.claim(examples=8)
def with_silent_layers_the_head_reads_the_normed_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """o_proj = down_proj = 0: logits = W_head (g x / √(mean x² + eps)), x the embedding of the token alone."""
    must_vanish(_silent, implementation, draw.choice(("hard", "tied", "eps 1e-2")), draw.integer(0, 2**16))


_silencing = silenced("o_proj", "down_proj")


def _silent(source: CachedLlama, variant: str, seed: int) -> Tensor:
    tokens, setting = text(seed), case(variant)
    w = {name: weight.double() for name, weight in setting.state.items()}
    x = w[EMBEDDING][tokens]
    normed = x / (x.pow(2).mean(-1, keepdim=True) + setting.config["rms_norm_eps"]).sqrt() * w["model.norm.weight"]
    handle = built(source, setting, _silencing)
    return off(source.llama(handle, tokens, positions(), padding()), F.linear(normed, w.get(HEAD, w[EMBEDDING])))


@CLAIMS.claim(examples=10)
def future_tokens_do_not_move_the_past(implementation: CachedLlama, draw: Draw) -> None:
    tokens, t = text(draw.integer(0, 2**16)), draw.integer(1, LENGTH - 1)
    other = tokens.clone()
    other[:, t:] = (other[:, t:] + 1) % V
    before, after = (ask(implementation, chosen) for chosen in (tokens, other))
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@CLAIMS.claim(examples=10)
def rows_do_not_see_each_other(implementation: CachedLlama, draw: Draw) -> None:
    """Whatever another row says, wherever it stands and however it is padded."""
    tokens, row = text(draw.integer(0, 2**16)), draw.integer(0, ROWS - 1)
    other, at, mask = tokens.clone(), positions(), padding()
    other[row], at[row], mask[row, : draw.integer(1, LENGTH - 1)] = (tokens[row] + 1) % V, at[row] * 2 + 1, 0
    before, after = ask(implementation, tokens, padding()), ask(implementation, other, mask, at)
    others = padding().bool()
    others[row] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@CLAIMS.claim(examples=10)
def what_padding_says_is_irrelevant(implementation: CachedLlama, draw: Draw) -> None:
    tokens, real = text(draw.integer(0, 2**16)), padding().bool()
    other = torch.where(real, tokens, text(draw.integer(0, 2**16) + 2**17))
    before, after = (ask(implementation, chosen, padding())[real] for chosen in (tokens, other))
    assert torch.equal(before, after)


@CLAIMS.claim(examples=8)
def a_padded_row_answers_as_it_does_alone(implementation: CachedLlama, draw: Draw) -> None:
    """Without its padding; the positions are the same, so the logits are."""
    must_agree(_alone, implementation, draw.integer(0, 2**16))


def _alone(source: CachedLlama, seed: int) -> tuple[Tensor, Tensor]:
    tokens, at = text(seed), positions()
    rows = [ask(source, tokens[i : i + 1, pad:], at=at[i : i + 1, pad:])[0] for i, pad in enumerate(PADS)]
    return ask(source, tokens, padding())[padding().bool()], torch.cat(rows)


@CLAIMS.claim(examples=8)
def any_split_over_the_cache_equals_one_pass(implementation: CachedLlama, draw: Draw) -> None:
    cuts = {draw.integer(1, 2 * LENGTH - 1) for _ in range(draw.integer(1, 6))}
    must_agree(_split, implementation, draw.integer(0, 2**16), (0, *sorted(cuts), 2 * LENGTH))


def _split(source: CachedLlama, seed: int, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    tokens, at, mask = (f(edges[-1]) for f in (lambda n: text(seed, n), positions, padding))
    handle = built(source, case())
    cache = source.new_cache(handle, ROWS, edges[-1])

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        return source.llama(handle, x, positions, mask, cache)

    parts = in_chunks(call, edges, tokens, at, mask)
    return source.llama(handle, tokens, at, mask)[mask.bool()], parts[mask.bool()]


@CLAIMS.claim(examples=1)
def two_calls_give_the_same_bits(implementation: CachedLlama, _draw: Draw) -> None:
    handle = fresh(implementation, case())
    first = implementation.llama(handle, text(0), positions(), padding())
    implementation.llama(handle, text(1, 2 * LENGTH), positions(2 * LENGTH), None)
    assert torch.equal(first, implementation.llama(handle, text(0), positions(), padding()))


@CLAIMS.claim(examples=8)
def only_distances_count_each_rows_own(implementation: CachedLlama, draw: Draw) -> None:
    """A shift of all positions of a row changes nothing; larger distances in a row change its answer."""
    seed, row = draw.integer(0, 2**16), draw.integer(0, ROWS - 1)
    must_agree(_shifted, implementation, seed, draw.integer(1, 300))
    far = positions()
    far[row] *= 2
    far[row] += 1
    near, stretched = (ask(implementation, text(seed), at=at) for at in (positions(), far))
    others = [i for i in range(ROWS) if i != row]
    assert torch.equal(near[others], stretched[others])
    assert not torch.equal(near[row], stretched[row])


def _shifted(source: CachedLlama, seed: int, shift: int) -> tuple[Tensor, Tensor]:
    here, there = (ask(source, text(seed), at=positions() + s) for s in (0, shift))
    return here, there


@CLAIMS.claim(examples=8)
def renamed_tokens_have_renamed_logits(implementation: CachedLlama, draw: Draw) -> None:
    """Rows of the embedding and of the head reordered, and the tokens with them."""
    must_agree(_renamed, implementation, draw.integer(0, 2**16))


OLD = torch.randperm(V, generator=torch.Generator().manual_seed(0))  # new name -> old name
NEW = OLD.argsort()


def _renamed(source: CachedLlama, seed: int) -> tuple[Tensor, Tensor]:
    tokens = text(seed)
    return ask(source, tokens), ask(source, NEW[tokens], edit=_rename)[..., NEW]


def _rename(config: Config, state: State) -> tuple[Config, State]:
    return config, {name: w[OLD] if name in (EMBEDDING, HEAD) else w for name, w in state.items()}


@CLAIMS.claim(examples=5)
def a_tied_head_is_the_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """Another vector for a token that the text lacks moves the logits of this token, and of no other."""
    token = draw.integer(0, V - 1)
    before, after = _with_another_vector(implementation, "tied", token)
    moved = (before != after).flatten(0, 1).any(0)
    assert torch.equal(moved, torch.arange(V) == token)


@CLAIMS.claim(examples=5)
def an_untied_head_is_not_the_embedding(implementation: CachedLlama, draw: Draw) -> None:
    """Another vector for a token that the text lacks moves nothing."""
    before, after = _with_another_vector(implementation, "hard", draw.integer(0, V - 1))
    assert torch.equal(before, after)


def _with_another_vector(implementation: CachedLlama, variant: str, token: int) -> tuple[Tensor, Tensor]:
    def edit(config: Config, state: State) -> tuple[Config, State]:
        other = state[EMBEDDING].clone()
        other[token] *= -7
        return config, state | {EMBEDDING: other}

    before, after = (
        implementation.llama(fresh(implementation, case(variant), e), text(0, without=token), positions(), None)
        for e in (as_it_is, edit)
    )
    return before, after


@CLAIMS.claim(examples=1)
def tied_is_one_tensor(implementation: Implementation, _draw: Draw) -> None:
    """Training the embedding trains the head: there is one parameter, and a step on it moves logits too."""
    handle, token = fresh(implementation, case("tied")), 5
    parameters = implementation.parameters(handle)
    assert HEAD not in parameters
    tokens = text(0, without=token)
    before = implementation.llama(handle, tokens, positions(), None)
    parameters[EMBEDDING].data[token] *= -7
    moved = (before != implementation.llama(handle, tokens, positions(), None)).flatten(0, 1).any(0)
    assert torch.equal(moved, torch.arange(V) == token)


@CLAIMS.claim(examples=1)
def logits_may_be_of_any_size(implementation: CachedLlama, _draw: Draw) -> None:
    """They are linear in the head, to the bit: neither capped nor normalised."""

    def louder(config: Config, state: State) -> tuple[Config, State]:
        return config, state | {HEAD: state[HEAD] * 2**10}

    quiet, loud = (ask(implementation, text(0), edit=edit) for edit in (as_it_is, louder))
    assert torch.equal(quiet * 2**10, loud)
