"""Two checkpoints of one model beside each other: which tensors and fields differ, and which mistake explains it.

The first is taken to be right. A tensor of the second agrees where it is the first one's, rounded or quantised as the
second stores it. One that does not is held against what each known mistake of conversion makes of the first; of the
mistakes that give it exactly, those are told that explain most tensors and would change none that agrees. Where none
does, what is known of the numbers is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from llama_reference.checkpoints.stored import Numbers, Stored, Weight, agree
from llama_reference.conventions.tensor_names import EMBEDDING, HEAD, layer_of, part_of
from llama_reference.implementation import Config
from llama_reference.mistakes.conversions import CONVERSIONS, Convert, Original
from llama_reference.standard.formula.rotary import inverse_frequencies

FIELDS = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
          "head_dim", "hidden_act", "rms_norm_eps")  # fmt: skip
SINGLE = 2**-22  # fields that a format stores as float32 differ by less than this part
KEPT = 8  # tensors in memory, of each checkpoint
LEFT = "left_at_initialisation"
UNRELATED = 5.0  # standard deviations of a correlation by chance


@dataclass(frozen=True)
class Difference:
    """A tensor or a field of the second checkpoint that is not the first one's.

    what: "missing", "added", "shape" or "numbers" of a tensor, or "field". known: the mistakes that give it, the
    likeliest first.
    """

    name: str
    what: str
    told: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    compared: int
    differences: list[Difference] = field(default_factory=list)
    """Of fields, then of tensors, in the order of the first."""
    remarks: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not self.differences

    @property
    def known(self) -> dict[str, list[str]]:
        """By mistake, the tensors and fields that it explains."""
        found: dict[str, list[str]] = {}
        for difference in self.differences:
            for name in difference.known[:1]:
                found.setdefault(name, []).append(difference.name)
        return found


Progress = Callable[[Iterable[str]], Iterable[str]]


def compare(one: Stored, other: Stored, progress: Progress = iter) -> Comparison:
    """The second checkpoint held against the first. progress: wraps the names of the tensors."""
    remarks = [*one.remarks, *other.remarks]
    right, is_repeated = _as_the_second_has_it(one, other, remarks)
    common = [name for name in right if name in other.weights]
    differing = [name for name in progress(common) if not _agrees(right[name], other.weights[name])]
    found = [_alone(name, "missing") for name in right if name not in other.weights]
    found += [_alone(name, "added") for name in other.weights if name not in right]
    found += _explained(one, right, other, differing, [name for name in common if name not in differing])
    order = {name: place for place, name in enumerate((*one.weights, *other.weights))}
    found.sort(key=lambda difference: order[difference.name])
    compared = [name for name in FIELDS if not (is_repeated and name == "num_key_value_heads")]
    explained = {name for difference in found for name in difference.known}
    found += _ignored_head(one, other)
    fields = [_by_what_explains_tensors(each, explained) for each in _fields(one, other, compared)]
    return Comparison(len(common), [*fields, *found], remarks)


def _as_the_second_has_it(one: Stored, other: Stored, remarks: list[str]) -> tuple[dict[str, Weight], bool]:
    """The first's tensors as the second may rightly store them: a tied head or none, key heads once for each query
    head; and whether these are.
    """
    right = dict(one.weights)
    if HEAD not in right and HEAD in other.weights and EMBEDDING in right:
        right[HEAD] = right[EMBEDDING]
        remarks.append("the first is tied; the head that the second stores is held against the embedding")
    if HEAD in right and HEAD not in other.weights and _agrees(right[HEAD], right[EMBEDDING]):
        del right[HEAD]
        remarks.append("the first stores its tied head, the second does not")
    R = one.fields["num_attention_heads"] // one.fields["num_key_value_heads"]
    keys = [name for name in right if part_of(name) in ("k_proj", "v_proj")]
    repeated = {name: _repeated(right[name], one.fields["num_key_value_heads"], R) for name in keys}
    if R == 1 or not all(name in other.weights and _agrees(w, other.weights[name]) for name, w in repeated.items()):
        return right, False
    remarks.append(f"the second stores each key and value head {R} times, once for each query head: the same model")
    return right | repeated, True


def _repeated(w: Weight, heads: int, times: int) -> Weight:
    def read() -> Numbers:
        return w.read().each(lambda x: x.unflatten(0, (heads, -1)).repeat_interleave(times, 0).flatten(0, 1))

    return Weight((w.shape[0] * times, *w.shape[1:]), w.kind, read)


def _agrees(one: Weight, other: Weight) -> bool:
    return one.shape == other.shape and bool(agree(one.read(), one.kind, other.read(), other.kind).all())


def _ignored_head(one: Stored, other: Stored) -> list[Difference]:
    """A head that the second's fields say is not used, or that they say is stored and is not."""
    is_tied = HEAD not in one.weights or _agrees(one.weights[HEAD], one.weights[EMBEDDING])
    said = other.fields.get("tie_word_embeddings")
    if said and not is_tied and HEAD in other.weights:
        told = "true, so that the head is stored and ignored"
        return [Difference("tie_word_embeddings", "field", told, ("embedding_as_head",))]
    if said is False and is_tied and HEAD not in other.weights:
        return [Difference("tie_word_embeddings", "field", "false, and no head is stored", (LEFT,))]
    return []


def _alone(name: str, what: str) -> Difference:
    """A tensor that only one of them has."""
    if what == "added":
        return Difference(name, what, "is not in the first")
    if name == HEAD:
        return Difference(name, what, "missing, so that the embedding is the head", ("embedding_as_head",))
    return Difference(name, what, "missing", ("biases_dropped",) if name.endswith(".bias") else ())


# fields


def _fields(one: Stored, other: Stored, names: list[str]) -> Iterator[Difference]:
    for name in names:
        ours, theirs = one.fields.get(name), other.fields.get(name)
        if ours is not None and theirs is not None and not _equal(ours, theirs):
            changed = ((mistake.name, mistake.fields(one.fields).get(name)) for mistake in CONVERSIONS)
            known = tuple(mistake for mistake, value in changed if value is not None and _equal(value, theirs))
            yield Difference(name, "field", f"{ours} in the first, {theirs} in the second", known)
    if "rope_parameters" in one.fields and "rope_parameters" in other.fields:
        yield from _rotary(one, other)


def _by_what_explains_tensors(difference: Difference, explained: set[str]) -> Difference:
    """The same, with the mistakes first that tensors tell of."""
    return replace(difference, known=tuple(sorted(difference.known, key=lambda name: name not in explained)))


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other) <= SINGLE * abs(one)
    return one == other


def _rotary(one: Stored, other: Stored) -> Iterator[Difference]:
    said = [stored.fields.get("max_position_embeddings") for stored in (one, other)]
    context: int = next(filter(None, said), 2048)
    found = frequencies(other.fields, other.rope_factors, context)
    if _close(frequencies(one.fields, one.rope_factors, context), found):
        return
    changed = ((mistake.name, one.fields | mistake.fields(one.fields)) for mistake in CONVERSIONS)
    known = tuple(name for name, fields in changed if _close(frequencies(fields, None, context), found))
    told = f"{_rope_of(one)} in the first, {_rope_of(other)} in the second"
    yield Difference("rope_parameters", "field", told, known)


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((np.abs(one - other) <= SINGLE * np.abs(one)).all())


def frequencies(fields: Config, factors: Tensor | None, context: int) -> np.ndarray:
    """Inverse frequencies (H / 2) and the factor on cosine and sine, of a short text and of one beyond the context,
    where dynamic and longrope have others. factors: what frequencies are divided by.
    """
    asked = fields | {"max_position_embeddings": context}
    divided = 1.0 if factors is None else factors.numpy()
    found = [inverse_frequencies(asked, length) for length in (1, 2 * context)]
    return np.concatenate([part for theta, sharpening in found for part in (theta / divided, [sharpening])])


def _rope_of(stored: Stored) -> str:
    rope = stored.fields["rope_parameters"]
    scaled = "with a tensor of factors" if stored.rope_factors is not None else ""
    return ", ".join(filter(None, (f"{rope['rope_type']}", f"theta {rope['rope_theta']:,g}", _factor(rope), scaled)))


def _factor(rope: Config) -> str:
    return f"factor {rope['factor']:g}" if "factor" in rope else ""


# tensors


class _Tried:
    """What conversions make of the first's tensors, held against the second's."""

    def __init__(self, one: Stored, other: Stored) -> None:
        read = lru_cache(maxsize=KEPT)(lambda name: one.weights[name].read())
        self.original = Original(one.fields, lambda name: read(name).values, frozenset(one.weights), other.pairs)
        self.one = one
        self.other = other
        self.theirs = lru_cache(maxsize=KEPT)(lambda name: other.weights[name].read())
        self.unit = lambda name: read(name).unit

    def gives(self, way: Convert, name: str) -> bool:
        """Whether this way of converting gives the second's tensor, up to rounding."""
        theirs = self.other.weights[name]
        try:
            made = way(self.original, name)
        except (KeyError, RuntimeError):  # it reads a tensor that is not there, or does not fit
            return False
        if made.shape != theirs.shape:
            return False
        source = self.one.weights.get(name) or self.one.weights[EMBEDDING]
        unit = self.unit(name) if name in self.one.weights else None
        numbers = Numbers(made, None if unit is None else unit.amax().expand(made.shape))
        return bool(agree(numbers, source.kind, self.theirs(name), theirs.kind).all())


def _explained(
    one: Stored, right: dict[str, Weight], other: Stored, differing: list[str], agreeing: list[str]
) -> list[Difference]:
    tried = _Tried(one, other)
    samples = list({_part(name): name for name in reversed(differing)}.values())
    unchanged = list({_part(name): name for name in agreeing}.values())
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in differing}
    for mistake in CONVERSIONS:
        for way in mistake.ways:
            if not any(tried.gives(way, name) for name in samples):
                continue
            given = [name for name in differing if tried.gives(way, name)]
            too_many = sum(not tried.gives(way, name) for name in unchanged)
            for name in given:
                found[name].append((len(given) - too_many, mistake.name))
    told = [_told(name, right[name], other.weights[name], found[name]) for name in differing]
    return _of_whole_layers(told)


def _part(name: str) -> str:
    """The name without its layer."""
    layer = layer_of(name)
    return name if layer is None else name.replace(f".{layer}.", ".", 1)


def _told(name: str, right: Weight, theirs: Weight, found: list[tuple[int, str]]) -> Difference:
    found.sort(key=lambda each: -each[0])
    known = tuple(dict.fromkeys(mistake for _, mistake in found))
    if right.shape == theirs.shape:
        told, guess = relation(right.read().values, theirs.read().values)
        return Difference(name, "numbers", told, known or guess)
    more = theirs.shape[0] - right.shape[0]
    if name in (EMBEDDING, HEAD) and theirs.shape[1:] == right.shape[1:] and more > 0:
        return Difference(name, "shape", *_padded(right, theirs, more))
    return Difference(name, "shape", f"shape {theirs.shape}, expected {right.shape}", known)


def _padded(right: Weight, theirs: Weight, more: int) -> tuple[str, tuple[str, ...]]:
    """Of a vocabulary with more rows."""
    numbers = theirs.read()
    rows = right.shape[0]
    same = agree(right.read(), right.kind, numbers.each(lambda w: w[:rows]), theirs.kind).all()
    told = (
        f"{theirs.shape[0]} rows, expected {rows}; the last {more} are {'not ' * bool(numbers.values[rows:].any())}zero"
    )
    return told if same else f"{told}, and others differ", ("vocabulary_padded",)


def _of_whole_layers(told: list[Difference]) -> list[Difference]:
    """Ones in the norms of a layer whose matrices are unrelated to the first's: the layer was not loaded."""
    left = {layer_of(difference.name) for difference in told if difference.known[:1] == (LEFT,)} - {None}
    return [
        replace(difference, known=(LEFT, *difference.known)) if layer_of(difference.name) in left
        and difference.known[:1] in (("gains_not_loaded",), ("biases_dropped",)) else difference
        for difference in told
    ]  # fmt: skip


def relation(right: Tensor, theirs: Tensor) -> tuple[str, tuple[str, ...]]:
    """How the numbers are related, in words, and the mistake that this alone suggests."""
    if not theirs.isfinite().all():
        return f"{int((~theirs.isfinite()).sum())} numbers are not finite", ()
    if (theirs == theirs.flatten()[0]).all():
        return f"every number is {theirs.flatten()[0]:g}", ()
    wrong = (right != theirs).flatten(1) if right.dim() > 1 else (right != theirs)[:, None]
    rows = wrong.any(1).nonzero().flatten()
    ratio, rest, r = _fit(right, theirs)
    if abs(r) * right.numel() ** 0.5 < UNRELATED:
        told = f"unrelated to the first's (correlation {r:.3f}), mean {theirs.mean():.2g}, deviation {theirs.std():.2g}"
        return told, (LEFT,)
    if rest < min(1e-3, 0.1 * abs(ratio - 1)):
        return f"{ratio:.6g} times the first's", ()
    share = f"{int(wrong.sum()):,} of {wrong.numel():,} numbers differ"
    where = f", all in rows {int(rows[0])} to {int(rows[-1])}" if len(rows) < len(right) else ""
    return f"{share}{where}; correlation {r:.4f}", ()


def _fit(right: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """The factor that brings them nearest, what is left of their norm then, and their correlation."""
    a, b = right.double().flatten(), theirs.double().flatten()
    ratio = (a @ b / (a @ a)).item()
    rest = ((b - ratio * a).norm() / b.norm()).item()
    centred = a - a.mean(), b - b.mean()
    r = (centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm()).clamp(min=1e-300)).item()
    return ratio, rest, r
