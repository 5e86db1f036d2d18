"""Power: every known mistake is rejected by the questions of its own component. (test_recognition: and is named.)"""

import pytest

from llama_reference import mistakes
from llama_reference.judge import comparison
from llama_reference.mistakes import Mistake
from llama_reference.mistakes.equivalent import EQUIVALENT
from llama_reference.standard.cases import DTYPES, Case
from llama_reference.standard.stepwise import StepwiseLlama

ALL = [m for component in mistakes.COMPONENTS for m in mistakes.of(component)]
IDS = [f"{m.component}-{m.name}" for m in ALL]


def test_there_are_many():
    assert len(ALL) >= 100
    assert len({(m.component, m.name) for m in ALL}) == len(ALL)


@pytest.mark.parametrize("component", mistakes.COMPONENTS)
def test_without_a_mistake_everything_is_accepted(component):
    """The control: what the mistakes are made of is right, to the bit, in every case that they are asked about."""
    assert comparison.rejections(component, StepwiseLlama()) == set()


@pytest.mark.parametrize("known", ALL, ids=IDS)
def test_is_rejected(known: Mistake, results):
    rejected_by = comparison.rejections(known.component, known.implementation)
    results.kills.setdefault(known.component, {})[known.name] = sorted(rejected_by)
    assert rejected_by, f"{known.name} survives: {known.why}"


@pytest.mark.parametrize("known", EQUIVALENT, ids=lambda m: f"{m.component}-{m.name}")
def test_what_cannot_be_observed_is_no_mistake(known: Mistake):
    """These are not counted. The hard case's rotary embedding does not look at the largest position."""
    for dtype in DTYPES:
        case = Case(dtype=dtype, seed=2)
        verdicts = comparison.verdicts(
            known.component, case, comparison.ask(known.component, known.implementation, case)
        )
        assert [str(verdict) for verdict in verdicts if not verdict.within] == []
