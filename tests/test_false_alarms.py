"""No false alarms: what is right is called right, whatever the weights, and in whichever order it computes.

Drawn are weights and inputs (a fresh seed), a component, a variant of the hard case and a dtype; every answer to the
component's question must be within budget. Once per draw transformers and the formula are asked, then ours and every
reordering that the component has. The thorough profile draws until each has been asked 2,000 times.
"""

import math
import random

import pytest
import torch

from llama_reference.judge import comparison
from llama_reference.questions import properties
from llama_reference.questions.checks import CHECKS
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.cases import DTYPES, Case
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.random_rounding import RandomRounding
from tests.profiles import among, is_thorough

# by what a draw costs: the cheap components are drawn more often
SHARES = {"rms_norm": 6, "rotary": 6, "attention": 4, "swiglu": 6, "block": 2, "kv_cache": 0.25, "llama": 1, "loss": 8}
COMPONENTS = tuple(SHARES)
DIFFERENTIATED = ("rms_norm", "rotary", "attention", "swiglu", "block", "llama", "loss")
FIRST_SEED = 10_000  # nobody else's
QUICK = ("rms_norm", "rotary", "attention", "swiglu", "loss", "sampling")


def draws_of_each() -> int:
    return 2000 if is_thorough() else 5


def drawn(component: str, number: int) -> Case:
    """The same cases in every run."""
    dice = random.Random(f"{component} {number}")
    variants = CHECKS[component].variants
    return Case(dice.choice(variants), dice.choice(DTYPES), FIRST_SEED + number)


def share(component: str, of: tuple[str, ...], n: int) -> int:
    """How many of n draws fall to the component, of those that a variant touches."""
    return math.ceil(n * SHARES[component] / sum(SHARES[name] for name in of))


def alarms(component: str, case: Case, implementations: dict) -> list[str]:
    """What is wrong with their answers, by the rule that everybody is judged by."""
    theirs, exact = (comparison.ask(component, source, case) for source in (oracle, formula))

    def chance(seed):
        answers = comparison.ask(component, RandomRounding(seed), case)
        return {label: budget.ulps(answers[label], exact[label], case.dtype).max().item() for label in answers}

    found = []
    for name, implementation in implementations.items():
        answers = comparison.ask(component, implementation, case)
        verdicts = [budget.judge(label, answers[label], theirs[label], exact[label], case.dtype) for label in theirs]
        wrong = [verdict for verdict in budget.second_opinion(verdicts, chance) if not verdict.within]
        found += [f"{name}, {component}, {case.variant}, seed {case.seed}: {verdict}" for verdict in wrong]
    return found


@pytest.mark.parametrize("component", among(COMPONENTS, QUICK))
def test_right_answers_in_another_order_are_within_budget(component, implementation):
    n, found = draws_of_each(), []
    touching = {name: touched for name, (_, touched) in REORDERINGS.items() if component in touched}
    wanted = {name: share(component, touched, n) for name, touched in touching.items()}
    wanted["ours"] = share(component, COMPONENTS, n)
    for number in range(max(wanted.values())):
        asked = {name: REORDERINGS[name][0] for name in touching if number < wanted[name]}
        asked |= {"ours": implementation} if number < wanted["ours"] else {}
        found += alarms(component, drawn(component, number), asked)
    assert found == []


@pytest.mark.parametrize("component", among(["sampling", "generate"], QUICK))
def test_choosing_tokens_is_right_on_other_logits(component, implementation):
    """What orders nothing: ours alone."""
    for number in range(math.ceil(draws_of_each() / 100)):
        case = Case("hard", DTYPES[number % 3] if component == "sampling" else torch.float32, FIRST_SEED + number)
        verdicts = comparison.verdicts(component, case, comparison.ask(component, implementation, case))
        assert [str(verdict) for verdict in verdicts if not verdict.within] == []


@pytest.mark.parametrize("component", among(DIFFERENTIATED, QUICK))
def test_right_gradients_in_another_order_are_within_budget(component):
    for number in range(math.ceil(draws_of_each() / 100)):
        theirs, exact = comparison.reference_gradients.__wrapped__(
            component, "hard", torch.float32, FIRST_SEED + number
        )
        for name, (reordered, touched) in REORDERINGS.items():
            if component in touched:
                answers = comparison.gradients.ask(component, reordered, Case(seed=FIRST_SEED + number))
                verdicts = [budget.judge(k, answers[k], theirs[k], exact[k], torch.float32, whole=True) for k in theirs]
                assert [f"{name}: {verdict}" for verdict in verdicts if not verdict.within] == []


@pytest.mark.parametrize("component", among(COMPONENTS, QUICK))
def test_properties_hold_in_another_order(component):
    """Those that hypothesis draws for ours, by dice for what only reorders."""
    times = math.ceil(draws_of_each() / 100)
    with torch.no_grad():
        broken = [
            (name, claim.name, seed)
            for claim in properties.of(component)
            for name, (reordered, touched) in REORDERINGS.items()
            if component in touched
            for seed in range(min(times, claim.examples))
            if not held(claim, reordered, seed)
        ]
    assert broken == []


def held(claim: properties.Claim, implementation, seed: int) -> bool:
    try:
        claim.check(implementation, properties.SeededDraw(FIRST_SEED + seed))
    except AssertionError:
        return False
    return True


def test_a_lucky_draw_of_transformers_is_no_fault_of_others():
    """The worst of 1,250 draws: right, and nearly four times as far off the formula as transformers."""
    case, (turned, _) = Case("rope yarn", torch.float16, 500663), REORDERINGS["complex rotary"]
    theirs, exact = comparison.reference_answers("attention", case)
    answers = comparison.ask("attention", turned, case)
    alone = [budget.judge(label, answers[label], theirs[label], exact[label], case.dtype) for label in theirs]
    assert [verdict.label for verdict in alone if not verdict.within] == ["layer 0 at scale 8"]
    assert all(verdict.within for verdict in comparison.verdicts("attention", case, answers))


def test_an_answer_that_is_wrong_by_little_is_no_lucky_draw():
    """The second opinion forgives what rounding explains, and nothing else."""
    case = Case("one group", torch.bfloat16)
    theirs, _ = comparison.reference_answers("attention", case)
    answers = {label: (answer.float() * 1.25).to(answer.dtype) for label, answer in theirs.items()}
    judged = comparison.verdicts("attention", case, answers)
    assert [verdict.label for verdict in judged if verdict.within and "scale 8" not in verdict.label] == []
