"""Claims about the cache: whatever was done to it, what is appended gets the logits that one pass over each row's own
history gives. `Machine` does those things to two caches of one model, and judges every append.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from llama_reference.implementation import Config, KVCache
from llama_reference.questions.properties.asking import steady
from llama_reference.questions.properties.claims import Claims, Draw
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.cases import Case, weights
from llama_reference.standard.profile import Profile
from llama_reference.standard.random_rounding import RandomRounding

CLAIMS = Claims("kv_cache")

LAYERS = 2  # what is done to one layer alone must show
ROOM = 20  # positions of a cache
ROWS, MOST_ROWS = 3, 4
STARTS = (0, 40, 5, 301)  # positions that rows begin at
POISONS = (math.nan, 1e4)
Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class History:
    """What the rows of a cache have been told: tokens, positions and mask (B, S), and where each row begins (B,)."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    starts: Tensor
    profile: Profile

    @staticmethod
    def empty(batch: int, profile: Profile) -> History:
        nothing = torch.zeros(batch, 0, dtype=torch.long)
        return History(nothing, nothing, nothing, torch.tensor(STARTS[:batch]), profile)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def then(self, tokens: Tensor, real: Tensor) -> History:
        mask = torch.cat((self.mask, real.long()), dim=1)
        counted = self.starts[:, None] + (mask.cumsum(-1) - 1).clamp(min=0)
        if not self.profile.positions:
            counted = torch.arange(mask.shape[1]).expand_as(mask)
        positions = torch.cat((self.positions, counted[:, self.length :]), dim=1)
        return replace(self, tokens=torch.cat((self.tokens, tokens), dim=1), positions=positions, mask=mask)

    def first(self, length: int) -> History:
        kept = {name: getattr(self, name)[:, :length] for name in ("tokens", "positions", "mask")}
        return replace(self, **kept)

    def rows(self, rows: Tensor) -> History:
        taken = {name: getattr(self, name)[rows] for name in ("tokens", "positions", "mask", "starts")}
        return replace(self, **taken)

    @property
    def told(self) -> Tensor | None:
        """The mask as a Llama is told it."""
        return self.mask if self.profile.padding else None


def shallow(of: Case) -> Config:
    """The configuration of the case, with fewer layers."""
    return of.config | {"num_hidden_layers": LAYERS}


class Machine:
    """Two caches of one model, each beside the history that it should hold."""

    def __init__(self, implementation: KVCache, of: Case, seed: int) -> None:
        self.implementation = implementation
        self.of = of
        self.seed = seed
        self.config = shallow(of)
        rows = ROWS if of.profile.batch else 1
        self.handle = implementation.build(self.config, weights(self.config, seed), torch.float32)
        self.caches = [implementation.new_cache(self.handle, rows, ROOM) for _ in range(2)]
        self.histories = [History.empty(rows, of.profile) for _ in range(2)]
        self.generator = torch.Generator().manual_seed(seed)
        self.done: list[str] = []

    def room(self, which: int) -> int:
        return ROOM - self.histories[which].length

    def append(self, which: int, T: int, pads: Sequence[int] = ()) -> None:
        """T positions, the first of every row padded, where nothing is held yet; judges their logits."""
        history = self.histories[which]
        real = torch.ones(len(history.tokens), T, dtype=torch.bool)
        if history.length == 0 and self.of.profile.padding:
            for row, pad in zip(real, pads, strict=False):
                row[:pad] = False
        self.done.append(f"append {T} to cache {which}")
        logits, self.histories[which] = self._call(which, real)
        self._judge(self.histories[which], logits)

    def crop(self, which: int, length: int) -> None:
        self.done.append(f"crop cache {which} to {length}")
        self.histories[which] = self.histories[which].first(length)
        self.caches[which] = self.implementation.crop(self.handle, self.caches[which], length)

    def reorder(self, which: int, rows: Sequence[int]) -> None:
        self.done.append(f"reorder cache {which} to {[*rows]}")
        taken = torch.tensor(rows)
        self.histories[which] = self.histories[which].rows(taken)
        self.caches[which] = self.implementation.reorder(self.handle, self.caches[which], taken)

    def scribble(self, which: int, T: int) -> None:
        """Appends a text that is nobody's, and crops it away."""
        history = self.histories[which]
        self._call(which, torch.ones(len(history.tokens), T, dtype=torch.bool))
        self.crop(which, history.length)

    def poison(self, which: int, T: int, number: float) -> None:
        """Appends T positions made of this number to every layer, and crops them away."""
        history = self.histories[which]
        self.done.append(f"poison {T} of cache {which} with {number}")
        more = history.then(*(torch.ones(len(history.tokens), T, dtype=torch.long) for _ in range(2)))
        x = torch.full((len(history.tokens), T, self.config["hidden_size"]), number)
        for layer in range(LAYERS):
            call = self.handle, layer, x.clone(), more.positions[:, -T:], more.told, self.caches[which]
            self.implementation.attention(*call)
            self.crop(which, history.length)

    def _call(self, which: int, real: Tensor) -> tuple[Tensor, History]:
        tokens = torch.randint(self.config["vocab_size"], real.shape, generator=self.generator)
        history = self.histories[which].then(tokens, real)
        T = real.shape[1]
        call = tokens, history.positions[:, -T:], history.told, self.caches[which]
        return self.implementation.llama(self.handle, *call), history

    def _judge(self, history: History, logits: Tensor) -> None:
        """By what one pass costs transformers, over this history and over a full cache of the same model: how large
        rounding errors grow shows on many positions only.
        """
        tables = _tables(history)
        full = _tables(_full(self.of, self.seed))
        theirs, exact = _one_pass(self.of, self.seed, *tables)
        real, T = history.mask.bool(), logits.shape[1]
        assert logits.shape == theirs[:, -T:].shape, f"logits {tuple(logits.shape)} after {', '.join(self.done)}"
        whole = torch.cat((theirs[:, : history.length - T], logits), dim=1)
        usual, usual_exact = _one_pass(self.of, self.seed, *full)
        answer = torch.cat((whole[real], usual.flatten(0, 1)))
        oracles = torch.cat((theirs[real], usual.flatten(0, 1)))
        formulas = torch.cat((exact[real], usual_exact.flatten(0, 1)))

        def chance(seed: int) -> dict[str, float]:
            one = _one_pass_by_chance(self.of, self.seed, seed, *tables)
            other = _one_pass_by_chance(self.of, self.seed, seed, *full)
            rounded = torch.cat((one[real], other.flatten(0, 1)))
            return {"logits": budget.ulps(rounded, formulas, torch.float32).max().item()}

        judged = [budget.judge("logits", answer, oracles, formulas, torch.float32)]
        (verdict,) = budget.second_opinion(judged, chance)
        assert verdict.within, f"after {', '.join(self.done)}: {verdict}"


def _tables(history: History) -> tuple[Table, ...]:
    return tuple(tuple(map(tuple, x.tolist())) for x in (history.tokens, history.positions, history.mask))


@lru_cache(maxsize=8)
def _full(of: Case, seed: int) -> History:
    """As many rows and positions as a cache may ever hold."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(of.config["vocab_size"], (MOST_ROWS, ROOM), generator=generator)
    return History.empty(MOST_ROWS, of.profile).then(tokens, torch.ones_like(tokens))


@lru_cache(maxsize=512)
def _one_pass(of: Case, seed: int, *tables: Table) -> tuple[Tensor, Tensor]:
    """transformers' logits and the exact ones of tokens, positions and mask."""
    tokens, positions, mask = map(torch.tensor, tables)
    theirs, exact = _references(of, seed)
    with torch.no_grad():
        return oracle.llama(theirs, tokens, positions, mask), formula.llama(exact, tokens, positions, mask)


@lru_cache(maxsize=64)
def _one_pass_by_chance(of: Case, seed: int, dice: int, *tables: Table) -> Tensor:
    """The logits rounded by chance."""
    source = RandomRounding(dice)
    tokens, positions, mask = map(torch.tensor, tables)
    with torch.no_grad():
        handle = source.build(shallow(of), weights(shallow(of), seed), torch.float32)
        return source.llama(handle, tokens, positions, mask)


@lru_cache(maxsize=8)
def _references(of: Case, seed: int) -> tuple[Any, Any]:
    """transformers' model, and the formula's."""
    build = shallow(of), weights(shallow(of), seed), torch.float32
    return oracle.build(*build), formula.build(*build)


def machine(implementation: KVCache, draw: Draw) -> Machine:
    return Machine(implementation, steady(draw), draw.integer(0, 7))


def rows_of(machine: Machine, which: int) -> int:
    return len(machine.histories[which].tokens)


def append(machine: Machine, draw: Draw, which: int = 0, most: int = 7) -> None:
    """A chunk, if there is room; rows are padded where it is the first."""
    if machine.room(which):
        T = draw.integer(1, min(most, machine.room(which)))
        machine.append(which, T, [draw.integer(0, T - 1) for _ in range(rows_of(machine, which))])


def crop(machine: Machine, draw: Draw, which: int = 0) -> None:
    machine.crop(which, draw.integer(0, machine.histories[which].length))


def reorder(machine: Machine, draw: Draw, which: int = 0) -> None:
    """Permuted, doubled, dropped; a cache that holds nothing has no rows to speak of."""
    if machine.histories[which].length and machine.of.profile.batch:
        last = rows_of(machine, which) - 1
        machine.reorder(which, [draw.integer(0, last) for _ in range(draw.integer(1, MOST_ROWS))])


def restart(machine: Machine, _draw: Draw, which: int = 0) -> None:
    machine.crop(which, 0)


def poison(machine: Machine, draw: Draw, which: int = 0) -> None:
    if machine.room(which) and "attention" in machine.of.profile.parts:
        machine.poison(which, draw.integer(1, machine.room(which)), draw.choice(POISONS))


OPERATIONS = (append, append, append, crop, reorder, restart, poison)


@CLAIMS.claim(examples=15)
def any_history_gives_what_one_pass_gives(implementation: KVCache, draw: Draw) -> None:
    """Chunks, crops, reorderings, restarts and poison in any order, on two caches in turn."""
    both = machine(implementation, draw)
    for which in (0, 1):
        append(both, draw, which)
    for _ in range(10):
        draw.choice(OPERATIONS)(both, draw, draw.integer(0, 1))
    for which in (0, 1):
        append(both, draw, which)


@CLAIMS.claim(examples=10)
def chunks_of_any_length_give_what_one_pass_gives(implementation: KVCache, draw: Draw) -> None:
    one = machine(implementation, draw)
    while one.room(0):
        append(one, draw, most=9)


@CLAIMS.claim(examples=5)
def two_caches_do_not_know_each_other(implementation: KVCache, draw: Draw) -> None:
    both = machine(implementation, draw)
    for which in (0, 1, 0, 1, 1, 0):
        append(both, draw, which, most=5)


@CLAIMS.claim(examples=5)
def what_was_cropped_away_never_was(implementation: KVCache, draw: Draw) -> None:
    one = machine(implementation, draw)
    append(one, draw)
    one.scribble(0, draw.integer(2, one.room(0)))
    append(one, draw)
    crop(one, draw)
    append(one, draw)


@CLAIMS.claim(examples=5, needs=("batch",))
def reordered_rows_go_on_as_the_rows_that_they_were(implementation: KVCache, draw: Draw) -> None:
    _reordered([(2, 0, 1), (1, 2, 0), (1, 1, 0)], implementation, draw)


@CLAIMS.claim(examples=5, needs=("batch",))
def rows_may_be_dropped_and_doubled(implementation: KVCache, draw: Draw) -> None:
    _reordered([(0, 2), (2,), (2, 0, 2, 1)], implementation, draw)


def _reordered(choices: Sequence[Sequence[int]], implementation: KVCache, draw: Draw) -> None:
    one = machine(implementation, draw)
    append(one, draw)
    one.reorder(0, draw.choice(choices))
    append(one, draw)


@CLAIMS.claim(examples=5)
def a_cache_started_anew_has_no_memory(implementation: KVCache, draw: Draw) -> None:
    """The second text is shorter than the first, so that something of the first stays where it was."""
    one = machine(implementation, draw)
    one.append(0, draw.integer(12, ROOM))
    restart(one, draw)
    append(one, draw)
    append(one, draw, most=4)


@CLAIMS.claim(examples=5, needs=("attention",))
def large_numbers_in_free_slots_do_not_matter(implementation: KVCache, draw: Draw) -> None:
    _free_slots_hold(1e4, implementation, draw)


@CLAIMS.claim(examples=5, needs=("attention",))
def nan_in_free_slots_does_not_matter(implementation: KVCache, draw: Draw) -> None:
    _free_slots_hold(math.nan, implementation, draw)


def _free_slots_hold(number: float, implementation: KVCache, draw: Draw) -> None:
    one = machine(implementation, draw)
    append(one, draw)
    one.poison(0, one.room(0), number)
    append(one, draw, most=3)
    append(one, draw, most=3)
