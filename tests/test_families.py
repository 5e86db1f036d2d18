"""What the catalogue does not hold word for word: mistakes with a number in them, two at once, or made elsewhere."""

import itertools
import random

import pytest

from llama_reference import mistakes
from llama_reference.judge import diagnosis
from llama_reference.judge.agreement import Evidence, trials
from llama_reference.mistakes.composition import both
from llama_reference.mistakes.families import FAMILIES
from llama_reference.standard.cases import Case
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.profile import FULL
from llama_reference.standard.stepwise import StepwiseLlama
from tests import draws
from tests.profiles import is_thorough

SEED = draws.SEED
COMPONENT, FAMILY, PAIR, REFUSING = 0.99, 0.95, 0.80, 0.95  # shares that have to be right
QUICK = ("loss", "swiglu")  # others take seconds each


def likenesses(component, implementation):
    return diagnosis.looks_like(component, implementation, seed=SEED)


def known(component, name):
    return next(mistake for mistake in mistakes.of(component) if mistake.name == name)


class NormAsInScratchLlm(StepwiseLlama):
    """√D x / (‖x‖ + ε), with an ε of its own."""

    def normalise(self, x, eps):  # noqa: ARG002
        x = x.to(self.wide)
        return x.shape[-1] ** 0.5 * x / (x.norm(dim=-1, keepdim=True) + 1e-8)


def test_the_norm_of_scratch_llm_is_named_with_its_number():
    first = likenesses("rms_norm", NormAsInScratchLlm())[0]
    assert (first.mistake.name, first.mistake.number) == ("eps_fixed_on_the_norm", 1e-8)
    assert "eps is 1e-08, outside the root, on the norm instead of the root of the mean" in str(first)


class LastNormByAnotherEps(StepwiseLlama):
    def rms_norm(self, handle, where, x):
        eps = 1e-6 if where == "model.norm" else self.eps(handle.config)
        return self.norm(x, handle[where + ".weight"], eps)


def test_a_mistake_in_one_of_the_norms_alone_is_named():
    first = likenesses("rms_norm", LastNormByAnotherEps())[0]
    assert first.mistake.name == "eps_fixed_at_1e-6"
    assert "; in model.norm alone" in str(first)


PAIRS = [
    ("rms_norm", "eps_missing", "one_plus_gain"),
    ("rotary", "yarn_ramp_inverted", "yarn_not_sharpened"),
    ("loss", "labels_shifted_twice", "in_bits"),
]


@pytest.mark.parametrize(("component", "one", "other"), PAIRS if is_thorough() else PAIRS[2:])
def test_both_of_two_mistakes_are_named(component, one, other):
    pair = next(both(known(component, one), known(component, other)))
    first = likenesses(component, pair.implementation)[0]
    assert {mistake.name for mistake in first.mistakes} == {one, other}
    assert f"`{one}`" in str(first)
    assert f"`{other}`" in str(first)


def test_where_a_step_falls_back_on_the_right_one_it_falls_back_on_the_other_mistake():
    """Both override `project`: keys are biased by nothing, and what is permuted are those keys."""
    pair = next(both(known("attention", "k_permutation_forgotten"), known("attention", "queries_normalised")))
    case = Case(seed=SEED)
    answers = [
        Evidence("attention", made.implementation, SEED).answers(case)["no padding"] for made in (pair, *pair.parts)
    ]
    assert not any(answers[0].equal(answer) for answer in answers[1:])
    assert next(both(known("rms_norm", "eps_missing"), known("rms_norm", "eps_squared")), None) is None


class KeysNotTurned(StepwiseLlama):
    """Rotary on queries only, in attention: asked alone, it is right."""

    def attention_step(self, handle, layer, x, positions, mask, cache):
        at = f"model.layers.{layer}.self_attn."
        q, k, v = self.project(handle, at, x)
        q, _ = self.rotary(handle, q, k, positions)
        if cache is not None:
            k, v = self.append(cache, layer, k, v)
        read = self.attend(q, k, v, self.visible(q.shape[2], k.shape[2], mask), self.scale(handle.config))
        return self.linear(handle, at + "o_proj", self.merge(read))


@pytest.mark.skipif(not is_thorough(), reason="asks attention as every mistake of rotary: in the thorough profile")
def test_a_mistake_of_rotary_that_attention_makes_is_named():
    assert likenesses("rotary", KeysNotTurned()) == []
    first = likenesses("attention", KeysNotTurned())[0]
    assert "looks like `only_queries` of rotary" in str(first)


class OneLayerLoadedAgain(StepwiseLlama):
    """[Block()] * L: what was loaded last is in all of them."""

    def build(self, config, state, dtype):
        last = f"layers.{config['num_hidden_layers'] - 1}."
        shared = {key: state[self.renumbered(key, last)] for key in state}
        return StepwiseLlama.build(self, config, shared, dtype)

    def renumbered(self, key, last):
        head, inside, rest = key.partition("layers.")
        return head + last + rest.split(".", 1)[1] if inside else key


def test_layers_that_all_hold_the_last_weights_are_named():
    for component in ("rms_norm", "swiglu") if is_thorough() else ("swiglu",):
        assert likenesses(component, OneLayerLoadedAgain())[0].mistake.name == "last_layer_for_all"


RIGHT = {"stepwise": (StepwiseLlama(), mistakes.COMPONENTS), **REORDERINGS}
OWN_BITS = {"fused rms_norm"}  # within rounding of right, and with the bits of `gain_before_the_cast`


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_gets_no_name(name):
    implementation, touched = RIGHT[name]
    asked = [component for component in touched if is_thorough() or component in QUICK]
    assert [likenesses(component, implementation) for component in asked if name not in OWN_BITS] == [
        [] for component in asked if name not in OWN_BITS
    ]


def test_members_of_families_are_named():
    count = 200 if is_thorough() else 4
    drawn = list(itertools.islice(draws.members(count), count) if is_thorough() else draws.quick_members(QUICK, count))
    told = [[*itertools.chain(*([like.mistakes] for like in found))] for found in map(asked, drawn)]
    in_component = [
        bool(found) and found[0][0].component == each.component for each, found in zip(drawn, told, strict=True)
    ]
    of_family = [
        each.name in [mistake.name for one in found[:3] for mistake in one]
        for each, found in zip(drawn, told, strict=True)
    ]
    assert sum(in_component) >= COMPONENT * len(drawn)
    assert sum(of_family) >= FAMILY * len(drawn)


def asked(member):
    return likenesses(member.component, member.implementation)


@pytest.mark.skipif(not is_thorough(), reason="200 pairs: in the thorough profile")
def test_pairs_are_named():
    drawn = list(draws.pairs(200))
    named = [
        any({m.name for m in like.mistakes} == {m.name for m in pair.parts} for like in found[:3])
        for pair, found in ((pair, likenesses(component, pair.implementation)) for component, pair in drawn)
    ]
    assert sum(named) >= PAIR * len(drawn)


class Refuses:
    """An implementation that refuses some variants of the hard case."""

    def __init__(self, implementation, variants):
        self._implementation = implementation
        self._refused = [Case(variant).config for variant in variants]

    def __getattr__(self, name):
        return getattr(self._implementation, name)

    def build(self, config, state, dtype):
        if config in self._refused:
            raise NotImplementedError
        return self._implementation.build(config, state, dtype)


def test_what_is_refused_costs_no_name_that_the_rest_determines():
    components, sets = (mistakes.COMPONENTS, 20) if is_thorough() else (("swiglu",), 1)
    survived = []
    for component in components:
        for mistake in mistakes.of(component)[:: 1 if is_thorough() else 3]:
            for number in range(sets):
                implementation = Refuses(mistake.implementation, refused(component, mistake.name, number))
                if determines(component, implementation, mistake):
                    survived.append(
                        [like.mistake.name for like in likenesses(component, implementation)][:1] == [mistake.name]
                    )
    assert len(survived) > 5
    assert sum(survived) >= REFUSING * len(survived)


def refused(component, name, number):
    dice = random.Random(f"{component} {name} {number}")
    variants = list(dict.fromkeys(case.variant for case in trials(component, SEED, FULL)))
    return dice.sample(variants, dice.randrange(len(variants)))


def determines(component, implementation, mistake):
    """Whether the answers that are left are wrong, and those of no other mistake to the bit."""
    evidence = Evidence(component, implementation, SEED)
    if not any(map(evidence.is_wrong, evidence.trials())):
        return False
    others = [form for other in mistakes.of(component) if other.name != mistake.name for form in other.forms]
    return not any(suspect.bitwise for suspect in evidence.surviving(others).values())


def test_every_member_of_a_family_replaces_steps_that_exist():
    for families in FAMILIES.values():
        for family in families:
            member = family.at(family.numbers.grid[0])
            assert "{" not in member.why
            assert member.component == family.component
