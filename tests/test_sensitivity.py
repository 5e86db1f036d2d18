"""The hard case is hard: every tensor and every field of the configuration moves what is compared, far beyond what the
budget allows, and a gate that says so can also say the opposite.
"""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from llama_reference.implementation import State
from llama_reference.judge.sensitivity import (
    BY_SHAPE,
    UNMOVED,
    asked_of_the_model,
    field_probes,
    fields,
    measure,
    tensor_probes,
)
from llama_reference.standard import oracle
from llama_reference.standard.cases import HARD, Case, weights


def void(probes) -> list[str]:
    """What the gate fails for, in its own words."""
    return [str(finding) for finding in measure(probes) if finding.void]


@pytest.fixture(scope="module")
def initialised() -> State:
    """Tensors of the hard model as transformers initialises them: gains one, biases zero, all else 0.02."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**copy.deepcopy(HARD))).state_dict()


def test_every_tensor_moves_what_is_compared():
    probes = list(tensor_probes())
    assert {probe.what.split(",")[0] for probe in probes} == weights(HARD, 0).keys()
    assert void(probes) == []


def test_every_field_moves_what_is_compared():
    assert void(field_probes()) == []


def test_every_field_has_a_probe_or_a_reason():
    architecture = vars(LlamaConfig()).keys() - vars(PreTrainedConfig()).keys()
    probed = {what.split(",")[0] for what in fields()} | {"rope_parameters"}
    assert architecture | HARD.keys() <= probed | UNMOVED.keys() | BY_SHAPE.keys()


@pytest.mark.parametrize("field", UNMOVED)
def test_a_field_said_to_move_nothing_moves_no_bit(field):
    case = Case()
    value, reason = UNMOVED[field]
    assert reason
    before = oracle.build(case.config, case.state, case.dtype)
    after = oracle.build(case.config | {field: value}, case.state, case.dtype)
    with torch.no_grad():
        logits = [oracle.llama(handle, case.tokens, case.positions, case.mask) for handle in (before, after)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("field", BY_SHAPE)
def test_a_field_settled_by_shapes_is_refused_with_another_value(field):
    case = Case()
    with pytest.raises(RuntimeError, match="size mismatch"):
        oracle.build(case.config | {field: BY_SHAPE[field]}, case.state, case.dtype)


def test_the_gate_fails_for_biases_and_norms_as_they_are_initialised(initialised):
    probes = [probe for probe in tensor_probes(initialised) if "layers.0." in probe.what or "model.norm" in probe.what]
    found = measure(probes)
    hidden = {finding.what for finding in found if finding.void}
    names = {probe.what.split(",")[0] for probe in probes}
    biases = {
        f"{name}, {how}" for name in names if "bias" in name for how in ("five percent larger", "shifted by a row")
    }
    gains = {f"{name}, shifted by a row" for name in names if "norm" in name}
    assert len(biases) == 14
    assert len(gains) == 3
    assert hidden == biases | gains
    assert {finding.leverage for finding in found if finding.void} == {0.0}


def test_the_gate_fails_for_the_bias_switches_as_they_are_initialised(initialised):
    probes = [probe for probe in field_probes(initialised) if "_bias" in probe.what]
    assert [line.split(":")[0] for line in void(probes)] == ["attention_bias", "mlp_bias"]


def test_logits_of_initialised_weights_hide_rotary_fields_and_those_of_the_hard_case_do_not(initialised):
    """With nearly uniform attention it hardly matters where a key stands."""
    fields = ("llama3: factor", "linear: rope_theta", "max_position_embeddings")

    def hidden(state: State | None) -> list[str]:
        return void(asked_of_the_model(probe) for probe in field_probes(state) if probe.what in fields)

    assert len(hidden(initialised)) == len(fields)
    assert hidden(None) == []
