"""Profiles: what a Llama lacks is found by asking, and the questions within what it has are as sharp as all are.

The matrix: every profile with one restriction, and in the thorough profile 50 combinations, by every known mistake. One
that exists within a profile (its bits are other than the right ones on some weights, within the profile) must be
rejected there, and named.
"""

from dataclasses import fields, replace

import pytest
import torch

from llama_reference import mistakes
from llama_reference.judge import blindness, comparison, diagnosis
from llama_reference.judge.sensitivity import field_probes, measure, tensor_probes
from llama_reference.questions import finding, properties
from llama_reference.report import notes, summary
from llama_reference.report import terminal as report
from llama_reference.report.results import Results
from llama_reference.standard import oracle
from llama_reference.standard.cases import VARIANTS, Case, configuration, within
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.outcome import Outcome
from llama_reference.standard.profile import FULL, Profile, restricted
from llama_reference.standard.stepwise import StepwiseLlama
from llama_reference.suite.plan import items
from llama_reference.suite.session import Offered, Session
from tests.profiles import among, is_thorough
from tests.restricted import PLAIN, PROFILES, Restricted, combination

COMBINATIONS = {f"combination {number}": combination(number) for number in range(50)}
ALL = {**PROFILES, "plain": PLAIN, **COMBINATIONS}
ENOUGH = 0.95
QUICK = ("swiglu", "loss")  # where a sample of the mistakes is asked in a second or two


@pytest.mark.parametrize("name", among(ALL, ("plain",)))
def test_the_hard_case_within_a_profile_is_hard(name):
    """Every tensor and field that there is moves what is compared a hundred times further than the budget allows."""
    probes = [*tensor_probes(profile=ALL[name]), *field_probes(profile=ALL[name])]
    assert [str(finding) for finding in measure(probes) if finding.void] == []


@pytest.mark.parametrize("name", ALL)
def test_sizes_within_a_profile_are_distinct(name):
    config = configuration("hard", ALL[name])
    N = config["num_attention_heads"]
    G = config["num_key_value_heads"]
    sizes = [config[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")]
    assert len({*sizes, N, N // G, G}) == 4 + (3 if ALL[name].num_key_value_heads else 2)


def test_all_that_there_is_is_asked_as_ever():
    assert within(VARIANTS, FULL) == tuple(VARIANTS)


@pytest.mark.parametrize("name", ["plain", "no padding", "consecutive positions", "llama3 only", "no cache"])
@pytest.mark.parametrize("component", ["attention", "llama"])
def test_what_is_lacking_is_found_by_asking(component, name):
    found = finding.find(component, Offered(Restricted(StepwiseLlama(), ALL[name])), {}).profile
    asked = [getattr(found, f.name) == getattr(ALL[name], f.name) for f in fields(Profile) if f.name != "rope_type"]
    assert all(asked)
    assert configuration("hard", found) == configuration("hard", ALL[name])


def test_what_is_ignored_is_no_refusal():
    """A model that takes biases and leaves them out is wrong."""
    known = next(m for m in mistakes.of("attention") if m.name == "biases_dropped")
    assert finding.find("attention", known.implementation, {}).profile == FULL


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"biases": False}, "SUPPORTS['biases'] is no feature, expected one of attention_bias, "),
        ({"padding": "no"}, "SUPPORTS['padding'] is 'no', expected True or False"),
        ({"rope_type": "default"}, "SUPPORTS['rope_type'] is 'default', expected a list of some of llama3, yarn, "),
        ({"rope_type": ["su"]}, "SUPPORTS['rope_type'] holds 'su', expected a list of some of llama3, yarn, "),
        ("no padding", "SUPPORTS is 'no padding', expected a dictionary of features"),
        ({"dtype": []}, "SUPPORTS['dtype'] is empty, expected a list of some of float32, bfloat16, float16"),
    ],
)
def test_a_statement_that_is_not_understood_names_its_key(stated, told):
    with pytest.raises(ValueError, match="SUPPORTS") as error:
        restricted(FULL, stated)
    assert str(error.value).startswith(told)


# a run


def judged(adapter, *components: str) -> Results:
    results = Results({"judged": "by budget"})
    session = Session(adapter, results, times=0.2)
    for component in components:
        for item in items(component, quick=True):
            session.ask(item)
        session.survey(component)
    return results


def test_a_plain_llama_is_judged():
    """Neither biases nor a head_dim of its own: no question of the full hard case is for it."""
    results = judged(Restricted(StepwiseLlama(), PLAIN), "attention")
    assert summary.verdict(results)[0]
    assert summary.is_right(results, "attention")
    assert {row.variant for row in summary.rows(results, "attention", "answers")} == {
        "hard",
        "one group",
        "a group a head",
    }
    assert Outcome.HOLDS in results.properties["attention"].values()
    assert "attention_bias" in results.lacking["attention"]
    assert {"biases_dropped", "padding_ignored"} <= {*results.unseen["attention"]}
    assert "heads_tiled" not in results.unseen["attention"]
    said = dict(notes.on_gaps(results))
    assert "attention_bias" in said["not asked"]
    assert said["known mistakes that could not have been seen"].startswith("attention ")
    assert Results.of(results.values()) == results


def test_a_mistake_in_a_plain_llama_is_named():
    known = next(m for m in mistakes.of("swiglu") if m.name == "gate_and_up_swapped")
    results = judged(Restricted(known.implementation, PLAIN), "swiglu")
    assert results.diagnoses["swiglu"].named[0].title == "looks like `gate_and_up_swapped` (these are its bits)"


class RefusesALongRope(StepwiseLlama):
    def build(self, config, state, dtype):
        if config["rope_parameters"]["rope_type"] == "longrope":
            raise NotImplementedError("no longrope")
        return super().build(config, state, dtype)


def test_a_refused_draw_costs_that_draw_and_not_the_claim():
    results = Results()
    session = Session(RefusesALongRope(), results)
    claim = next(c for c in properties.of("rotary") if c.name == "queries_and_keys_turn_alike_in_every_head")
    try:
        session.hold(claim)
    except NotImplementedError:  # a skip, which must not pass for one
        pytest.fail("one refused draw dropped the claim")
    refused, _, total = results.left_out["rotary"][claim.name].split()[:3]
    assert 0 < int(refused) < int(total) == claim.examples
    assert "rotary 1" in dict(notes.on_gaps(results))["properties of which some draws were refused"]


def test_a_run_that_judged_nothing_says_why():
    class NeedsAGpu(StepwiseLlama):
        def build(self, *_):
            raise NotImplementedError("needs a GPU")

    results = judged(NeedsAGpu(), "rms_norm")
    assert summary.is_nothing_judged(results)
    assert summary.why_nothing(results) == "it does not offer build (needs a GPU)"
    assert report.table(results).splitlines()[0].endswith("; NOT JUDGED: rms_norm")


# the matrix


def exists(component: str, known, profile: Profile) -> bool:
    """Whether its bits are other than the right ones on weights and inputs that nobody is asked with."""
    for seed in (11, 12):
        for case in comparison.cases(component, seed, profile):
            answers = comparison.ask(component, known.implementation, case)
            right = comparison.ask(component, StepwiseLlama(), case)
            if any(not torch.equal(answers[label], right[label]) for label in right):
                return True
    return False


def missed(component: str, profile: Profile) -> list[str]:
    """The mistakes that exist within the profile and are not rejected there."""
    asked = blindness.everything(component, profile)
    known = mistakes.of(component, profile) if comparison.is_asked(component, profile) else ()
    return [
        m.name
        for m in known
        if not blindness.is_seen(component, m, profile, asked, bits=True) and exists(component, m, profile)
    ]


def unnamed(component: str, profile: Profile, step: int = 1) -> tuple[list[str], int]:
    """The mistakes that are rejected within the profile and not named first, and how many were asked."""
    asked = blindness.everything(component, profile)
    known = mistakes.of(component, profile) if comparison.is_asked(component, profile) else ()
    rejected = [m for m in known[::step] if blindness.is_seen(component, m, profile, asked, bits=True)]
    first = {m.name: diagnosis.looks_like(component, m.implementation, 1, profile)[:1] for m in rejected}
    return [name for name, found in first.items() if [x.mistake.name for x in found] != [name]], len(rejected)


@pytest.mark.parametrize("component", among(mistakes.COMPONENTS, QUICK))
@pytest.mark.parametrize("name", among(ALL, ("plain",)))
def test_every_mistake_that_exists_within_a_profile_is_rejected_and_named(name, component):
    assert missed(component, ALL[name]) == []
    unknown, total = unnamed(component, ALL[name], step=1 if is_thorough() else 4)
    assert len(unknown) <= (1 - ENOUGH) * total, unknown


@pytest.mark.parametrize("component", among(mistakes.COMPONENTS, QUICK))
@pytest.mark.parametrize("name", among(ALL, ("plain",)))
def test_what_is_right_within_a_profile_is_called_right(name, component):
    """transformers, what the mistakes are made of, and every reordering, by an adapter that refuses all else."""
    profile = ALL[name]
    reordered = [x for x, touched in REORDERINGS.values() if component in touched]
    for implementation in (oracle, StepwiseLlama(), *reordered):
        adapter = Restricted(implementation, profile)
        for case in comparison.cases(component, 21, profile):
            verdicts = comparison.verdicts(component, case, comparison.ask(component, adapter, case))
            assert [str(v) for v in verdicts if not v.within] == []


def test_whole_models_are_asked_what_their_parts_are():
    """Where nothing but logits answers, a mistake in a part is a mistake of the model, under its own name."""
    profile = replace(PLAIN, parts=(), dtype=("float32",))
    names = {known.name for known in mistakes.of("llama", profile)}
    assert {"neighbour_pairs", "eps_outside_the_root", "gate_and_up_swapped"} <= names
    known = next(m for m in mistakes.of("llama", profile) if m.name == "neighbour_pairs")
    case = Case(profile=profile)
    verdicts = comparison.verdicts("llama", case, comparison.ask("llama", known.implementation, case))
    assert not any(v.within for v in verdicts)
