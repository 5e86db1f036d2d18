"""Mistakes planted in the source of other people and of the stand-ins: caught, blamed on the right component, named.

A few in every run; in the thorough profile all of the stand-ins, and of a package where it is installed.
"""

import pytest
import torch

from llama_reference.adapter_loader import load
from tests.peers.planting import HERE, INSIDE_OUT, Judge, planted
from tests.peers.plants import ALL, STANDINS
from tests.peers.test_peers import PACKAGES
from tests.profiles import is_thorough

QUICK = ("cs336_student-rms_norm-eps_outside_the_root", "rasbt_style-rotary-wrong_way_round")
# program -> how many of its plants are caught and how many named, as measured (README.md). A program that is not here
# was not asked about all of them. Where it is more by now, write it here.
REACHED = {
    "cs336_student": (7, 7),
    "rasbt_style": (7, 8),
    "nanochat_style": (6, 4),
    "litgpt_gpt": (6, 5),
    "torchtune_llama": (6, 5),
    "x_transformers_decoder": (3, 3),
}


def test_every_plant_has_its_place_and_is_python():
    for plant in STANDINS:
        path = HERE.parents[1] / (plant.module.replace(".", "/") + ".py")
        compile(plant.source(path.read_text(encoding="utf-8")), path, "exec")


def test_five_or_more_are_planted_in_each_and_in_several_components():
    for adapter in {plant.adapter for plant in ALL}:
        plants = [plant for plant in ALL if plant.adapter == adapter]
        assert len(plants) >= 5
        assert len({plant.component for plant in plants}) >= 4
    assert {plant.component for plant in ALL} == {*INSIDE_OUT}


@pytest.mark.parametrize("name", QUICK)
def test_a_plant_is_caught_and_named(name):
    plant = next(plant for plant in ALL if str(plant) == name)
    judge = Judge(load(HERE / f"{plant.adapter}.py"))
    with planted(plant) as program:
        found = judge.judge(program)
    assert found.guilty == [plant.component]
    assert found.names(plant), found.told


def test_a_plant_is_gone_afterwards():
    plant = next(plant for plant in ALL if str(plant) == QUICK[0])
    zeros = torch.zeros(1, 3)
    with planted(plant) as program:
        wrong = program.TransformerLM.__init__.__globals__["RMSNorm"](3, 4.0)(zeros + 2.0)
    right = load(HERE / "cs336_student.py").TransformerLM.__init__.__globals__["RMSNorm"](3, 4.0)(zeros + 2.0)
    assert wrong[0, 0] == 2 / (2 + 4)
    assert right[0, 0] == 2 / 8**0.5


@pytest.mark.skipif(not is_thorough(), reason="minutes for each program: in the thorough profile")
@pytest.mark.parametrize("adapter", REACHED)
def test_as_many_are_caught_and_named_as_were(adapter):
    if adapter in PACKAGES:
        pytest.importorskip(PACKAGES[adapter], reason=f"{PACKAGES[adapter]} is not installed: tests/peers/README.md")
    judge, results = Judge(load(HERE / f"{adapter}.py")), []
    for plant in (plant for plant in ALL if plant.adapter == adapter):
        with planted(plant) as program:
            results.append((plant, judge.judge(program)))
    caught, named = REACHED[adapter]
    missed = [(str(plant), found.told) for plant, found in results if not found.names(plant)]
    assert sum(bool(found.guilty) for _, found in results) >= caught, missed
    assert len(results) - len(missed) >= named, missed
