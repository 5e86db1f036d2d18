"""Recognition: a mistake is named, on weights it was never seen on, in whatever order its program computes."""

import pytest
import torch

from llama_reference import mistakes
from llama_reference.judge import comparison, diagnosis
from llama_reference.judge.agreement import Evidence
from llama_reference.questions.checks import kv_cache
from llama_reference.standard.cases import Case
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.stepwise import StepwiseLlama
from tests import rewritten
from tests.profiles import among, is_thorough

ALL = [m for component in mistakes.COMPONENTS for m in mistakes.of(component)]
ENOUGH = 0.95
# What comparing answers cannot name first, with the reason.
NOT_NAMED: dict[str, str] = {}
# To be named takes the answers of every mistake of the component: for these that takes no more than a second or two.
QUICK = ("rms_norm", "swiglu", "loss")


def named(component: str, implementation) -> list[str]:
    """What it looks like, the nearest first, on weights of another seed than everybody is asked with."""
    return [likeness.mistake.name for likeness in diagnosis.looks_like(component, implementation, seed=1)]


def component_of(which: str) -> str:
    return which.partition("-")[0]


@pytest.mark.parametrize("which", among(rewritten.REWRITTEN, QUICK, component_of))
def test_a_mistake_written_again_from_its_description_is_named(which):
    component, _, name = which.partition("-")
    assert named(component, rewritten.REWRITTEN[which])[:1] == [name]


class TopLeftForSeveral(rewritten.Textbook):
    """One token over a cache sees every key; several see a triangle that begins at the first key."""

    def visible(self, T, S, mask):
        seen = super().visible(T, S, mask)
        return seen if T == 1 else seen.tril(0)


class KeysPermutedAsQueries(rewritten.Textbook):
    """Rows of k_proj in Meta's order, put into Hugging Face's as if there were as many key heads as query heads."""

    def linear(self, model, name, x):
        y = super().linear(model, name, x)
        if not name.endswith("k_proj"):
            return y
        N = model.config["num_attention_heads"]
        H = model.config["head_dim"]
        if y.shape[-1] % (2 * N):
            raise NotImplementedError
        meta = y.unflatten(-1, (-1, 2, H // 2)).transpose(-1, -2).flatten(-3)
        return meta.unflatten(-1, (N, -1, 2)).transpose(-1, -2).flatten(-3)


class TurnedAlongTheHeads(rewritten.Textbook):
    """The angles of positions 0, 1, ... meet heads 0, 1, ..."""

    def rotary(self, model, q, k, positions):  # noqa: ARG002
        of_heads = torch.arange(q.shape[1])[None]
        cos, sin = (part.transpose(1, 2) for part in self.angles(model, of_heads, q.dtype))
        G = k.shape[1]
        return self.rotate(q, cos, sin), self.rotate(k, cos[:, :G], sin[:, :G])


class StrictAboutLengths(StepwiseLlama):
    """The length of the cache moves by 1 a call, and who is told another one raises an error."""

    def advance(self, cache, T):  # noqa: ARG002
        cache.filled += 1

    def visible(self, T, S, mask):
        if mask is not None and mask.shape[1] != S:
            raise ValueError(f"a mask of {mask.shape[1]}, expected {S}")
        return super().visible(T, S, mask)

    def crop(self, handle, cache, length):
        if length > cache.filled:
            raise ValueError(f"cannot crop to {length}: there are {cache.filled}")
        return super().crop(handle, cache, length)


# Caught in the field before the catalogue had a name, or the form, for them.
FOUND_IN_THE_FIELD = {
    "attention-aligned_top_left": TopLeftForSeveral(),
    "attention-k_permuted_as_q": KeysPermutedAsQueries(),
    "rotary-over_the_heads": TurnedAlongTheHeads(),
    "kv_cache-advances_by_one": StrictAboutLengths(),
}


@pytest.mark.parametrize("which", among(FOUND_IN_THE_FIELD, ("attention-aligned_top_left",)))
def test_a_mistake_that_once_had_no_name_is_named(which):
    component, _, name = which.partition("-")
    assert named(component, FOUND_IN_THE_FIELD[which])[:1] == [name]


@pytest.mark.parametrize("name", among(rewritten.STRANGERS, ("swiglu",), lambda name: rewritten.STRANGERS[name][0]))
def test_of_what_nobody_knows_it_is_said_that_nobody_knows_it(name):
    component, implementation = rewritten.STRANGERS[name]
    assert named(component, implementation) == []


@pytest.mark.parametrize("component", among(mistakes.COMPONENTS, QUICK))
def test_what_is_right_looks_like_no_mistake(component):
    """Written independently, too: rounding is no mistake's mark unless a mistake rounds like that."""
    assert named(component, StepwiseLlama()) == []
    assert named(component, rewritten.Textbook()) == []


class OffBy(StepwiseLlama):
    """Its norms are off by so many units in the last place."""

    units = 0.0

    def norm(self, x, gain, eps):
        y = super().norm(x, gain, eps)
        return y + self.units * torch.finfo(y.dtype).eps * y.abs().amax(-1, keepdim=True)


def test_the_diagnosis_doubts_where_the_suite_does():
    """Where transformers was lucky, an answer that is further off is not wrong yet."""
    implementation, case = OffBy(), next(comparison.cases("rms_norm"))
    settled = set()
    for implementation.units in (0.5, 2.0, 3.0, 4.0, 5.0, 64.0):
        verdicts = comparison.verdicts("rms_norm", case, comparison.ask("rms_norm", implementation, case))
        right = all(verdict.within for verdict in verdicts)
        assert Evidence("rms_norm", implementation).is_wrong(case) is not right
        settled.add((right, any(verdict.chance_error for verdict in verdicts)))
    assert {(True, True), (False, False)} <= settled


@pytest.mark.parametrize("component", among(mistakes.COMPONENTS, QUICK))
def test_every_mistake_is_named_on_fresh_weights(component):
    """A sample, or in the thorough profile all."""
    known = mistakes.of(component)
    asked = known if is_thorough() else known[::10]
    missed = {f"{component}-{m.name}" for m in asked if named(component, m.implementation)[:1] != [m.name]}
    assert missed - NOT_NAMED.keys() == set()
    assert not is_thorough() or {key for key in NOT_NAMED if key.startswith(f"{component}-")} == missed


def test_who_breaks_at_a_mask_and_at_a_crop_is_asked_for_less():
    evidence = Evidence("kv_cache", StrictAboutLengths())
    assert evidence.is_broken
    assert [less.is_broken for less in diagnosis.less(evidence)] == [True, False]


def test_a_reset_that_is_refused_costs_what_is_behind_it_only():
    class NeverEmptied(StepwiseLlama):
        def crop(self, handle, cache, length):
            if not length:
                raise NotImplementedError
            return super().crop(handle, cache, length)

    answers = kv_cache.ask(NeverEmptied(), Case())
    assert "chunks, after a reorder" in answers
    assert "chunks, after a reset" not in answers


class WithDefaultRotaryOnly:
    """An implementation that refuses every rope_type but one, as many Llamas do."""

    def __init__(self, implementation):
        self._implementation = implementation

    def __getattr__(self, name):
        return getattr(self._implementation, name)

    def build(self, config, state, dtype):
        if config["rope_parameters"]["rope_type"] != "default":
            raise NotImplementedError("the default rope_type only")
        return self._implementation.build(config, state, dtype)


@pytest.mark.parametrize("name", ["neighbour_pairs", "no_sign"])
def test_refusing_some_questions_costs_no_name(name):
    known = next(m for m in mistakes.of("rotary") if m.name == name)
    assert named("rotary", WithDefaultRotaryOnly(known.implementation))[:1] == [name]


def test_who_refuses_everything_looks_like_nothing():
    class Refuses:
        def build(self, config, state, dtype):
            raise NotImplementedError

    assert named("rotary", Refuses()) == []


def test_nearly_all_are_named():
    assert len(NOT_NAMED) <= (1 - ENOUGH) * len(ALL)
    assert NOT_NAMED.keys() <= {f"{m.component}-{m.name}" for m in ALL}


def test_one_kernel_that_rounds_once_is_named_as_what_it_is():
    """torch's own norm is right, within budget; that the weight multiplies before the cast is seen all the same."""
    fused, _ = REORDERINGS["fused rms_norm"]
    assert named("rms_norm", fused)[:1] == ["gain_before_the_cast"]
