"""Claims about attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_reference.implementation import CachedAttention, Config, State
from llama_reference.questions.chunks import in_chunks
from llama_reference.questions.properties.asking import (
    LENGTH,
    PADS,
    Edit,
    as_it_is,
    built,
    case,
    hard,
    must_agree,
    must_vanish,
    numbers,
    off,
    one_of,
    padding,
    positions,
    real,
    rows,
    steady,
)
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard.cases import Case

CLAIMS = Claims("attention")

AT = "model.layers.1.self_attn."
GROUPINGS = ("hard", "one group", "a group a head", "no biases")


def heads(config: Config) -> tuple[int, int, int]:
    """N, G, H."""
    return config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]


def hidden(of: Case, seed: int, length: int = LENGTH, scale: float = 1.0) -> Tensor:
    return numbers(seed, rows(of), length, of.config["hidden_size"], scale=scale)


def attend(source: CachedAttention, of: Case, x: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
    at = positions(of, x.shape[1]) if at is None else at
    return source.attention(built(source, of), 1, x, at, mask)


def values(of: Case, x: Tensor) -> Tensor:
    """Of every query head, the heads side by side (B, T, N H), in float64."""
    N, G, H = heads(of.config)
    bias = of.state.get(AT + "v_proj.bias")
    v = F.linear(x.double(), of.state[AT + "v_proj.weight"].double(), None if bias is None else bias.double())
    return v.unflatten(-1, (-1, H)).repeat_interleave(N // G, 2).flatten(2)


def output(of: Case, read: Tensor) -> Tensor:
    """o_proj, in float64."""
    state = of.state
    bias = state.get(AT + "o_proj.bias")
    return F.linear(read, state[AT + "o_proj.weight"].double(), None if bias is None else bias.double())


@CLAIMS.claim(examples=15)
def without_queries_values_are_averaged(implementation: CachedAttention, draw: Draw) -> None:
    """q_proj = 0: all scores are 0, so that t tokens weigh 1 / t each."""
    must_vanish(_averaged, implementation, one_of(draw, GROUPINGS), draw.integer(0, 2**16))


def _averaged(source: CachedAttention, of: Case, seed: int) -> Tensor:
    x, seen = hidden(of, seed), real(of)
    y = source.attention(built(source, of, _silent_queries), 1, x, positions(of), padding(of))
    v = values(of, x) * seen[..., None]
    exact = output(of, v.cumsum(1) / seen.cumsum(1).clamp(min=1)[..., None])
    return off(y[seen], exact[seen])


def _silent_queries(config: Config, state: State) -> tuple[Config, State]:
    return config, {name: torch.zeros_like(w) if AT + "q_proj" in name else w for name, w in state.items()}


@CLAIMS.claim(needs=("padding",))
def the_only_visible_token_is_answered_with_its_value(implementation: CachedAttention, draw: Draw) -> None:
    """o_proj(v), whatever the query: the softmax over one score is 1. Padding is not asked: it may answer anything."""
    seen = tuple(draw.integer(0, LENGTH - 1) for _ in range(rows(hard(draw))))
    must_vanish(_only_one, implementation, one_of(draw, GROUPINGS), draw.integer(0, 2**16), seen)


def _only_one(source: CachedAttention, of: Case, seed: int, seen: tuple[int, ...]) -> Tensor:
    x, column = hidden(of, seed), torch.tensor(seen)[:, None]
    shown = torch.arange(LENGTH) == column
    y = attend(source, of, x, shown.long())
    return off(y[shown], output(of, values(of, x)[shown]))


@CLAIMS.claim()
def future_tokens_do_not_move_the_past(implementation: CachedAttention, draw: Draw) -> None:
    of = hard(draw)
    x = hidden(of, draw.integer(0, 2**16))
    t = draw.integer(1, LENGTH - 1)
    other = x.clone()
    other[:, t:] = hidden(of, draw.integer(0, 2**16) + 2**17)[:, t:]
    before = attend(implementation, of, x, None)
    after = attend(implementation, of, other, None)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.equal(before[:, t], after[:, t])


@CLAIMS.claim(examples=5, needs=("batch",))
def each_token_sees_itself_and_all_before_it_and_no_other(implementation: CachedAttention, draw: Draw) -> None:
    """The zero pattern of the whole Jacobian: in row s of the batch token s is another one; what moved?"""
    T = 20
    seed = draw.integer(0, 2**16)
    start = draw.integer(0, 300)
    of = hard(draw)
    D = of.config["hidden_size"]
    start = start * of.profile.positions
    x = numbers(seed, 1, T, D, scale=0.3).repeat(T, 1, 1)  # small, so that every weight is of some size
    other = x.clone()
    other[range(T), range(T)] = numbers(seed + 1, T, D, scale=0.3)
    at = torch.arange(start, start + T).expand(T, -1)
    before = attend(implementation, of, x, None, at)
    after = attend(implementation, of, other, None, at)
    assert torch.equal((before != after).any(-1), torch.ones(T, T, dtype=torch.bool).triu())


@CLAIMS.claim(needs=("batch",))
def rows_do_not_see_each_other(implementation: CachedAttention, draw: Draw) -> None:
    """Whatever else a row holds, wherever it stands and however it is padded."""
    of = steady(draw)
    x = hidden(of, draw.integer(0, 2**16))
    row = draw.integer(0, rows(of) - 1)
    other, at, mask = x.clone(), positions(of), padding(of)
    other[row] = -x[row]
    if of.profile.positions:
        at[row] = at[row] * 2 + 1
    if mask is not None:
        mask[row, : draw.integer(1, LENGTH - 1)] = 0
    before = attend(implementation, of, x, padding(of))
    after = attend(implementation, of, other, mask, at)
    others = real(of)
    others[row] = False
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[row], after[row])


@CLAIMS.claim(needs=("padding",))
def what_padding_holds_is_irrelevant(implementation: CachedAttention, draw: Draw) -> None:
    """On the left or on the right."""
    of = hard(draw)
    x = hidden(of, draw.integer(0, 2**16))
    mask = draw.choice((real(of), real(of).flip(1)))
    other = torch.where(mask[..., None], x, hidden(of, draw.integer(0, 2**16) + 2**17))
    before = attend(implementation, of, x, mask.long())[mask]
    after = attend(implementation, of, other, mask.long())[mask]
    assert torch.equal(before, after)


@CLAIMS.claim(examples=15, needs=("padding", "positions"))
def a_padded_row_answers_as_it_does_alone(implementation: CachedAttention, draw: Draw) -> None:
    """Without its padding, each row having another; the positions are the same."""
    must_agree(_alone, implementation, steady(draw), draw.integer(0, 2**16))


def _alone(source: CachedAttention, of: Case, seed: int) -> tuple[Tensor, Tensor]:
    x, at = hidden(of, seed), positions(of)
    padded = attend(source, of, x, padding(of))[real(of)]
    alone = (attend(source, of, x[i, PADS[i] :][None], None, at[i, PADS[i] :][None])[0] for i in range(rows(of)))
    return padded, torch.cat(list(alone))


@CLAIMS.claim(examples=2, needs=("padding",))
def rows_with_nothing_to_see_stay_finite(implementation: CachedAttention, draw: Draw) -> None:
    kinds = (torch.float32, torch.bfloat16) if "bfloat16" in draw.profile.dtype else (torch.float32,)
    _stays_finite(implementation, case(dtype=draw.choice(kinds), profile=draw.profile))


@CLAIMS.claim(examples=1, needs=("padding", "float16"))
def rows_with_nothing_to_see_stay_finite_in_float16(implementation: CachedAttention, draw: Draw) -> None:
    """One masked key alone has a score of any size: in float16 the lowest number plus that overflows."""
    _stays_finite(implementation, case(dtype=torch.float16, profile=draw.profile))


def _stays_finite(implementation: CachedAttention, of: Case) -> None:
    handle = built(implementation, of)
    for T in (1, 2, LENGTH):
        x = hidden(of, 0, T, scale=8.0).to(of.dtype)
        nothing = torch.zeros(rows(of), T, dtype=torch.long)
        assert implementation.attention(handle, 1, x, positions(of, T), nothing).isfinite().all()


@CLAIMS.claim(examples=15, needs=("positions", "rope default"))
def only_distances_count(implementation: CachedAttention, draw: Draw) -> None:
    """A shift of all positions changes nothing; larger distances do."""
    seed = draw.integer(0, 2**16)
    of = one_of(draw, ("rope default",))
    must_agree(_shifted, implementation, of, seed, draw.integer(1, 300))
    near = attend(implementation, of, hidden(of, seed), None, positions(of))
    far = attend(implementation, of, hidden(of, seed), None, positions(of) * 2)
    assert not torch.equal(near, far)


def _shifted(source: CachedAttention, of: Case, seed: int, shift: int) -> tuple[Tensor, Tensor]:
    here = attend(source, of, hidden(of, seed), None, positions(of))
    there = attend(source, of, hidden(of, seed), None, positions(of) + shift)
    return here, there


@CLAIMS.claim(examples=15, needs=("cache",))
def any_split_over_the_cache_equals_one_pass(implementation: CachedAttention, draw: Draw) -> None:
    cuts = {draw.integer(1, 2 * LENGTH - 1) for _ in range(draw.integer(1, 6))}
    edges = (0, *sorted(cuts), 2 * LENGTH)
    must_agree(_split, implementation, steady(draw), draw.integer(0, 2**16), edges)


def _split(source: CachedAttention, of: Case, seed: int, edges: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    T = edges[-1]
    x = hidden(of, seed, T)
    at = positions(of, T)
    mask = padding(of, T)
    seen = real(of, T)
    handle = built(source, of)
    cache = source.new_cache(handle, rows(of), T)

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        return source.attention(handle, 1, x, positions, mask, cache)

    parts = in_chunks(call, edges, x, at, mask)
    return source.attention(handle, 1, x, at, mask)[seen], parts[seen]


@CLAIMS.claim(examples=15, needs=("num_key_value_heads",))
def a_group_for_each_head_with_the_same_weights_changes_nothing(implementation: CachedAttention, draw: Draw) -> None:
    """Heads 0 to R - 1 read group 0: giving each head a group of its own, R times the same, gives the same answer."""
    must_agree(_edited, implementation, hard(draw), draw.integer(0, 2**16), _a_group_a_head)


def _a_group_a_head(config: Config, state: State) -> tuple[Config, State]:
    N, G, H = heads(config)
    return config | {"num_key_value_heads": N}, {
        name: w.unflatten(0, (G, H)).repeat_interleave(N // G, 0).flatten(0, 1)
        if "k_proj" in name or "v_proj" in name
        else w
        for name, w in state.items()
    }


@CLAIMS.claim(examples=15)
def the_order_of_groups_does_not_matter(implementation: CachedAttention, draw: Draw) -> None:
    """Nor that of heads within them: they are exchanged with all that belongs to them, columns of o_proj included."""
    must_agree(_edited, implementation, hard(draw), draw.integer(0, 2**16), _exchanged)


def _exchanged(config: Config, state: State) -> tuple[Config, State]:
    """The groups in reverse, and the last two heads of each exchanged."""
    N, G, H = heads(config)
    order = torch.arange(N).view(G, -1).flip(0)
    queries = torch.cat((order[:, :-2], order[:, -2:].flip(1)), dim=1).flatten()
    orders = {"q_proj": queries, "k_proj": torch.arange(G).flip(0), "v_proj": torch.arange(G).flip(0)}
    changed = {
        name: w.unflatten(0, (-1, H))[order].flatten(0, 1)
        for name, w in state.items()
        for part, order in orders.items()
        if part in name
    }
    columns = {
        name: w.unflatten(1, (N, H))[:, queries].flatten(1) for name, w in state.items() if "o_proj.weight" in name
    }
    return config, state | changed | columns


@CLAIMS.claim(examples=15, needs=("head_dim", "positions"))
def scores_are_divided_by_the_root_of_head_dim(implementation: CachedAttention, draw: Draw) -> None:
    """Heads four times as wide, the new channels 0, halve the scores; queries twice as loud double them again. Asked
    at position 0, where no channel turns.
    """
    must_agree(_edited, implementation, hard(draw), draw.integer(0, 2**16), _widened, 0)


def _widened(config: Config, state: State) -> tuple[Config, State]:
    N, _, H = heads(config)
    rope = config["rope_parameters"]
    wide = {key: rope[key] * 4 for key in ("short_factor", "long_factor") if key in rope}

    def wider(name: str, w: Tensor) -> Tensor:
        if "o_proj.weight" in name:
            return F.pad(w.unflatten(1, (N, H)), (0, 3 * H)).flatten(1)
        if "self_attn" not in name or "o_proj" in name:
            return w
        padded = F.pad(w.unflatten(0, (-1, H)).movedim(1, -1), (0, 3 * H)).movedim(-1, 1).flatten(0, 1)
        return 2 * padded if "q_proj" in name else padded

    return config | {"head_dim": 4 * H, "rope_parameters": rope | wide}, {
        name: wider(name, w) for name, w in state.items()
    }


def _edited(
    source: CachedAttention, of: Case, seed: int, edit: Edit, stretch: int = 1, first: Edit = as_it_is
) -> tuple[Tensor, Tensor]:
    """The answers of two models, over a padded batch; the first channel is always 1."""
    x = hidden(of, seed)
    mask = padding(of)
    at = positions(of) * stretch
    x[..., 0] = 1
    one = source.attention(built(source, of, first), 1, x, at, mask)[real(of)]
    other = source.attention(built(source, of, edit), 1, x, at, mask)[real(of)]
    return one, other


@CLAIMS.claim(examples=15, needs=("attention_bias",))
def a_bias_is_the_weight_of_a_channel_that_is_always_1(implementation: CachedAttention, draw: Draw) -> None:
    must_agree(
        _edited, implementation, hard(draw), draw.integer(0, 2**16), _biases_as_weights, 1, _without_first_channel
    )


def _without_first_channel(config: Config, state: State) -> tuple[Config, State]:
    return config, {name: _first_column(w, 0) if _has_bias(name) else w for name, w in state.items()}


def _biases_as_weights(config: Config, state: State) -> tuple[Config, State]:
    moved: State = {}
    for name, w in state.items():
        if _has_bias(name):
            bias = name.removesuffix("weight") + "bias"
            moved |= {name: _first_column(w, state[bias]), bias: torch.zeros_like(state[bias])}
    return config, state | moved


def _has_bias(name: str) -> bool:
    return name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))


def _first_column(w: Tensor, column: Tensor | int) -> Tensor:
    w = w.clone()
    w[:, 0] = column
    return w
