"""What may be wrong where no known mistake of the component gives its answers.

In this order, and the first that explains everything is told:

1. what the components inside it do wrong, alone or with a mistake of its own on top (and the cache, where it is wrong
   over a cache alone);
2. one in how weights arrive, one in one place alone, or one with a number in it, which is found from the answers;
3. a mistake of a component inside it, which is right when it is asked alone: it is made here, and not there;
4. two mistakes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from llama_reference import mistakes
from llama_reference.implementation import offers
from llama_reference.judge.agreement import Evidence, Suspect
from llama_reference.judge.fitting import fitted
from llama_reference.judge.pairs import helpful, pairs
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.composition import both, in_one_place
from llama_reference.mistakes.families import FAMILIES
from llama_reference.questions.checks.attention import IN_CHUNKS
from llama_reference.standard.cases import dtypes

# The components whose steps a component takes, the innermost first.
USES: dict[str, tuple[str, ...]] = {
    "attention": ("rotary",),
    "block": ("rms_norm", "rotary", "attention", "swiglu"),
    "kv_cache": ("attention", "llama"),
    "llama": ("rms_norm", "rotary", "attention", "swiglu", "block"),
    "generate": ("llama", "kv_cache"),
}
SECONDS = 9.0  # of processor time for single mistakes, and again for pairs: after it nothing new is tried
BASES = 3  # mistakes on top of which families are tried

Found = dict[Mistake, Suspect]


def further(evidence: Evidence, name: Callable[[str], list[Mistake]]) -> Found:
    """Explanations of wrong answers. `name` gives the mistakes that a component inside looks like, nearest first."""
    if not _is_finite(evidence):
        return {}
    if wrong := list(dict.fromkeys(_wrong_inside(evidence.component, evidence))):
        innermost = [inner for inner in wrong if not {*wrong} & {*USES.get(inner, ())}]
        outermost = [inner for inner in wrong if not any(inner in USES.get(outer, ()) for outer in wrong)]
        found = _on_top(evidence, [name(inner) for inner in innermost])
        return found if found or innermost == outermost else _on_top(evidence, [name(inner) for inner in outermost])
    if _over_a_cache_alone(evidence) and (found := _on_top(evidence, [name("kv_cache")])):
        return found
    in_time = _clock()
    return _own(evidence, in_time) or _elsewhere(evidence, in_time) or _pairs(evidence, _clock())


def _is_finite(evidence: Evidence) -> bool:
    """Whether there are numbers to explain. What is not finite in the finest dtype (memory that nobody wrote, say) has
    no cause that a number or a second mistake would tell.
    """
    finest = dtypes(evidence.profile)[0]
    answers = [evidence.answers(case) for case in evidence.trials() if case.dtype == finest]
    return all(bool(y.isfinite().all()) for one in answers if isinstance(one, dict) for y in one.values())


def _clock() -> Callable[[], bool]:
    """Whether there is time left, from now on."""
    start = time.process_time()
    return lambda: time.process_time() - start < SECONDS


def _over_a_cache_alone(evidence: Evidence) -> bool:
    """Whether it is wrong there alone, as the cache is."""
    here = evidence.component != "kv_cache" and evidence.wrong_labels() == {IN_CHUNKS}
    return here and _is_wrong("kv_cache", evidence)


def _wrong_inside(component: str, evidence: Evidence) -> Iterator[str]:
    """The wrong components inside one, and inside these."""
    for inner in USES.get(component, ()):
        if _is_wrong(inner, evidence):
            yield inner
            yield from _wrong_inside(inner, evidence)


def _is_wrong(component: str, evidence: Evidence) -> bool:
    """Whether a component inside is wrong when it is asked alone; of the cache's, not only over a cache."""
    needed = ("new_cache", "llama") if component == "kv_cache" else (component,)
    if not all(offers(evidence.implementation, function) for function in needed):
        return False
    inner = Evidence(component, evidence.implementation, evidence.seed, evidence.profile)
    return bool(inner.wrong_labels() - ({IN_CHUNKS} if evidence.component == "kv_cache" else set()))


def _forms(component: str) -> Iterator[Mistake]:
    return (form for mistake in mistakes.of(component) for form in mistake.forms)


def _on_top(evidence: Evidence, named: list[list[Mistake]]) -> Found:
    """What is wrong inside, if that is all; else one of the component's own mistakes on top of it."""
    if not all(named):
        return {}
    in_time = _clock()
    bases = _joined([found[0] for found in named])
    if found := evidence.surviving(bases, kept=False):
        return found
    for base in bases:
        composed = (pair for form in _forms(evidence.component) for pair in both(base, form))
        if found := evidence.surviving(composed, kept=False):
            return found
        if found := _fitted(evidence, in_time, base):
            return found
    return {}


def _joined(named: list[Mistake]) -> list[Mistake]:
    """All of them made at once, in every way; those of one name once."""
    different = list({mistake.name: mistake for mistake in named}.values())
    joined = different[:1]
    for mistake in different[1:]:
        joined = [pair for base in joined for pair in both(base, mistake)]
    return joined


def _own(evidence: Evidence, in_time: Callable[[], bool]) -> Found:
    placed = (only for form in _forms(evidence.component) for only in in_one_place(form))
    return (
        evidence.surviving(mistakes.in_weights(evidence.component))
        or evidence.surviving(placed, kept=False)
        or _fitted(evidence, in_time)
    )


def _fitted(evidence: Evidence, in_time: Callable[[], bool], over: Mistake | None = None) -> Found:
    """Members of the component's families, as far as there is time."""
    members = _within(in_time, fitted(evidence, FAMILIES[evidence.component], over))
    return evidence.surviving(members, kept=False)


def _elsewhere(evidence: Evidence, in_time: Callable[[], bool]) -> Found:
    for inner in USES.get(evidence.component, ()):
        if in_time() and (found := evidence.surviving(_forms(inner))):
            return found
    return {}


def _pairs(evidence: Evidence, in_time: Callable[[], bool]) -> Found:
    known = [*_forms(evidence.component), *mistakes.in_weights(evidence.component)]
    if found := evidence.surviving(list(pairs(evidence, known, in_time)), kept=False):
        return found
    in_time = _clock()
    for base in helpful(evidence, known, BASES):
        if found := _fitted(evidence, in_time, base):
            return found
    return {}


def _within(in_time: Callable[[], bool], found: Iterable[Mistake]) -> Iterator[Mistake]:
    """As many as there is time for."""
    for mistake in found:
        yield mistake
        if not in_time():
            return
