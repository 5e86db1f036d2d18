"""Mistakes planted in the source of src/llama_scratch, at every place where a person could make them: caught and named.

tests/planted/catalogued.py has those that the catalogue knows, unseen.py forty that were written without looking at it.
All of them are judged in the thorough profile; `python -m tests.planted.measure` prints the same as a table.
"""

import sys

import pytest
import torch

from llama_scratch.model import rms_norm
from tests.planted.catalogued import CATALOGUED
from tests.planted.measure import judge
from tests.planted.plant import planted
from tests.planted.unseen import UNSEEN
from tests.profiles import is_thorough

PLANTS = [*CATALOGUED, *UNSEEN]
QUICK = ("gain_twice", "sum_instead_of_mean", "exponent_over_half", "gate_missing", "in_bits", "top_k_50")
NAMED, CAUGHT = 0.9, 39  # of the catalogued, of the forty


def test_every_plant_has_its_place_and_is_python():
    for plant in PLANTS:
        compile(plant.source(), plant.file, "exec")
    assert len(UNSEEN) == 40
    assert len({(plant.file, plant.old, plant.new) for plant in CATALOGUED}) == len(CATALOGUED)


def test_a_plant_is_in_the_package_while_it_is_asked_and_not_afterwards():
    plant = next(plant for plant in CATALOGUED if plant.name == "gain_twice")
    right = norm_of_twos(rms_norm)
    with planted(plant):
        assert norm_of_twos(sys.modules[rms_norm.__name__]) == 2 * right
    assert sys.modules[rms_norm.__name__] is rms_norm


def norm_of_twos(module):
    """What its RMSNorm with gains of 2 makes of twos."""
    norm = module.RMSNorm(3, 0.0)
    norm.weight.data.fill_(2.0)
    return norm(torch.full((1, 3), 2.0))[0, 0].item()


@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_in_the_source_is_caught_and_named(name):
    plant = next(plant for plant in CATALOGUED if plant.name == name)
    result = judge(plant)
    assert result.guilty == [plant.component]
    assert result.names(plant), result.named


@pytest.mark.skipif(not is_thorough(), reason="an hour: in the thorough profile")
def test_all_are_caught_and_nearly_all_named():
    results = [(plant, judge(plant)) for plant in CATALOGUED]
    assert [plant for plant, result in results if not result.is_caught] == []
    assert sum(result.names(plant) for plant, result in results) >= NAMED * len(results)


@pytest.mark.skipif(not is_thorough(), reason="minutes: in the thorough profile")
def test_of_the_forty_that_nobody_knew_nearly_all_are_caught():
    assert sum(judge(plant).is_caught for plant in UNSEEN) >= CAUGHT
