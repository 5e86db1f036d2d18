"""Every key of rope_parameters, the optional ones too, does what it does in transformers, to the bit."""

import copy

import pytest
import torch

from llama_reference.standard.cases import HARD, ROPES
from llama_reference.standard.oracle.rotary import inverse_frequencies as transformers_frequencies
from llama_scratch.checkpoint import config_file
from llama_scratch.model.rotary import inverse_frequencies

YARN, LONGROPE, LLAMA3 = ROPES["yarn"], ROPES["longrope"], ROPES["llama3"]
CONTEXT = HARD["max_position_embeddings"]


def without(rope: dict, *keys: str) -> dict:
    return {key: value for key, value in rope.items() if key not in keys}


ROPE = {
    **ROPES,
    "linear, factor 1": ROPES["linear"] | {"factor": 1.0},
    "dynamic, factor 2.5": ROPES["dynamic"] | {"factor": 2.5},
    "yarn, factor 1": YARN | {"factor": 1.0},
    "yarn, factor below 1": YARN | {"factor": 0.5},
    "yarn, factor 1.5": YARN | {"factor": 1.5},
    "yarn, both edges inside": YARN | {"original_max_position_embeddings": 4096},
    "yarn, edges not truncated": YARN | {"original_max_position_embeddings": 4096, "truncate": False},
    "yarn, truncate said": YARN | {"original_max_position_embeddings": 4096, "truncate": True},
    "yarn, beta_fast 8": YARN | {"original_max_position_embeddings": 4096, "beta_fast": 8},
    "yarn, beta_slow 3": YARN | {"original_max_position_embeddings": 4096, "beta_slow": 3},
    "yarn, 33 would be another edge": YARN | {"original_max_position_embeddings": 512, "truncate": False},
    "yarn, low edge below the first pair": YARN | {"original_max_position_embeddings": 100, "truncate": False},
    "yarn, high edge past the last channel": YARN | {"original_max_position_embeddings": 4096, "beta_slow": 1e-9},
    "yarn, low edge past the last pair": YARN | {"original_max_position_embeddings": 4096, "beta_fast": 1e-9},
    "yarn, both edges on one pair": YARN | {"original_max_position_embeddings": 4096, "beta_fast": 4, "beta_slow": 4,
                                            "truncate": False},
    "yarn, edges meet": YARN | {"original_max_position_embeddings": 64, "beta_fast": 1000, "beta_slow": 100},
    "yarn, attention_factor": YARN | {"attention_factor": 0.7},
    "yarn, mscale and mscale_all_dim": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2},
    "yarn, mscale alone": YARN | {"mscale": 0.707},
    "yarn, mscale_all_dim alone": YARN | {"mscale_all_dim": 0.5},
    "yarn, attention_factor before mscale": YARN | {"attention_factor": 1.3, "mscale": 0.707, "mscale_all_dim": 1.2},
    "yarn, base 500000": YARN | {"rope_theta": 500000.0, "original_max_position_embeddings": 4096},
    "longrope, attention_factor": LONGROPE | {"attention_factor": 1.25},
    "longrope, no factor": without(LONGROPE, "factor"),
    "longrope, factor 1": LONGROPE | {"factor": 1.0},
    "longrope, factor 1.5": LONGROPE | {"factor": 1.5},
    "longrope, integers": LONGROPE | {"short_factor": [1] * 10, "long_factor": [3] * 10},
    "longrope, factor below 1": LONGROPE | {"factor": 0.5},
    "llama3, bands moved": LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 8.0},
    "llama3, a longer context": LLAMA3 | {"original_max_position_embeddings": 8192},
}  # fmt: skip


@pytest.mark.parametrize("name", ROPE)
def test_frequencies_and_attention_factor_have_transformers_bits(name):
    raw = HARD | {"rope_parameters": ROPE[name]}
    original = ROPE[name].get("original_max_position_embeddings", CONTEXT)
    for length in (1, original - 1, original, original + 1, CONTEXT, CONTEXT + 1, 4 * CONTEXT):
        mine, factor = inverse_frequencies(config_file.from_dict(copy.deepcopy(raw)), length)
        theirs, their_factor = transformers_frequencies(copy.deepcopy(raw), length)
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs), f"length {length}: {mine} {theirs}"
        assert factor == their_factor, f"length {length}"


@pytest.mark.parametrize("name", ROPE)
def test_torchs_default_dtype_rounds_no_frequency(name):
    """Loading code likes to set it to the checkpoint's."""
    config = config_file.from_dict(HARD | {"rope_parameters": ROPE[name]})
    expected, _ = inverse_frequencies(config, CONTEXT + 1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found, _ = inverse_frequencies(config, CONTEXT + 1)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
