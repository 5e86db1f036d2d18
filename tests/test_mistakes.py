"""Power: every known mistake is rejected by the questions of its own component, and recognised by its answers."""

import pytest

from reference import diagnosis, mistakes, power
from reference.mistakes import Mistake
from reference.plain import Plain

ALL = [m for component in mistakes.COMPONENTS for m in mistakes.of(component)]
IDS = [f"{m.component}-{m.name}" for m in ALL]


def test_there_are_many():
    assert len(ALL) >= 100
    assert len({(m.component, m.name) for m in ALL}) == len(ALL)


@pytest.mark.parametrize("component", mistakes.COMPONENTS)
def test_without_a_mistake_everything_is_accepted(component):
    """The control: what the mistakes are made of is right, to the bit, in every case that they are asked about."""
    assert power.rejections(component, Plain()) == set()


@pytest.mark.parametrize("known", ALL, ids=IDS)
def test_is_rejected(known: Mistake, results):
    rejected_by = power.rejections(known.component, known.implementation)
    results.kills.setdefault(known.component, {})[known.name] = sorted(rejected_by)
    assert rejected_by, f"{known.name} survives: {known.why}"


@pytest.mark.parametrize("known", ALL[::25], ids=IDS[::25])
def test_is_recognised_on_weights_it_was_never_seen_on(known: Mistake):
    likenesses = diagnosis.looks_like(known.component, known.implementation, seed=1)
    if likenesses:
        assert known.name in {likeness.mistake.name for likeness in likenesses}
    else:  # forward it is right, or so nearly that rounding hides it: gradients or bits told
        assert power.rejections(known.component, known.implementation) <= {"gradients", "oracle"}
