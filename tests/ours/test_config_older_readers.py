"""What is saved opens elsewhere as the same model: in transformers 4 and mlx-lm, which know the old names only.

Neither is installed here. Each reader below takes from `config.json` what that program takes, by its own rules, and
computes the frequencies by its own formulas, in float64. (The programs themselves, transformers 4.57.6 and mlx-lm
0.32.2, were run on these files once; CHANGELOG says what came out.)
"""

import copy
import json
import logging
import math

import numpy as np
import pytest
import torch
import transformers

from llama_reference.standard.budget import OTHER_PROGRAM
from llama_reference.standard.cases import HARD, ROPES
from llama_scratch import Llama
from llama_scratch.checkpoint import config_file
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.model.rotary import inverse_frequencies
from tests.ours.config_comparison import differences

YARN, LONGROPE = ROPES["yarn"], ROPES["longrope"]
ROPE = ROPES | {
    "linear, integers": {"rope_type": "linear", "rope_theta": 100000, "factor": 4},
    "llama3, theta 500000": ROPES["llama3"] | {"rope_theta": 500000.0},
    "yarn, beta": YARN | {"beta_fast": 8, "beta_slow": 2, "original_max_position_embeddings": 4096},
    "yarn, mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 0.4},
    "yarn, attention_factor": YARN | {"attention_factor": 0.7},
    "yarn, not truncated": YARN | {"truncate": False, "original_max_position_embeddings": 4096},
    "longrope, a factor that is not the ratio": LONGROPE | {"factor": 3.0},
    "longrope, no factor": {key: value for key, value in LONGROPE.items() if key != "factor"},
    "longrope, attention_factor": LONGROPE | {"attention_factor": 1.25},
}


def saved(rope: dict, tmp_path, **fields) -> dict:
    """What save_pretrained writes for a model with this rotary embedding."""
    config = config_file.from_dict(HARD | {"num_hidden_layers": 1, "rope_parameters": rope} | fields)
    Llama(config).to(torch.bfloat16).save_pretrained(tmp_path)
    return json.loads((tmp_path / "config.json").read_text())


def transformers_4(file: dict, length: int) -> tuple[np.ndarray, float]:
    """LlamaConfig and modeling_rope_utils of 4.57: theta from `rope_theta`, the rest from `rope_scaling`."""
    theta = file.get("rope_theta", 10000.0)
    scaling = file.get("rope_scaling")
    H = file["head_dim"]
    longest = file["max_position_embeddings"]
    kind = "default" if scaling is None else scaling.get("type", scaling.get("rope_type"))
    half = np.arange(0, H, 2) / H
    plain = 1.0 / theta**half
    match kind:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / scaling["factor"], 1.0
        case "dynamic":
            stretch = scaling["factor"] * max(length, longest) / longest - (scaling["factor"] - 1)
            return 1.0 / (theta * stretch ** (H / (H - 2))) ** half, 1.0
        case "llama3":
            return llama_3(plain, scaling), 1.0
        case "longrope":
            return longrope(plain, scaling, longest, file.get("original_max_position_embeddings"), length)
        case "yarn":
            return yarn(theta, H, scaling, longest)
    raise AssertionError(kind)


def llama_3(plain: np.ndarray, scaling: dict) -> np.ndarray:
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low = scaling["low_freq_factor"]
    high = scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return plain * ((1 - smooth) / scaling["factor"] + smooth)


def longrope(plain, scaling: dict, longest: int, outside: int | None, length: int) -> tuple[np.ndarray, float]:
    """The length outside `rope_scaling` counts, and its ratio instead of `factor`."""
    factor = longest / outside if outside else scaling["factor"]
    original = outside or longest
    sharpening = scaling.get("attention_factor")
    if sharpening is None:
        sharpening = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    factors = scaling["long_factor"] if length > original else scaling["short_factor"]
    return plain / np.array(factors), sharpening


def yarn(theta: float, H: int, scaling: dict, longest: int) -> tuple[np.ndarray, float]:
    factor = scaling["factor"]
    original = scaling.get("original_max_position_embeddings") or longest
    turns = [scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1]
    edges = [H * math.log(original / (t * 2 * math.pi)) / (2 * math.log(theta)) for t in turns]
    if scaling.get("truncate", True):
        edges = [math.floor(edges[0]), math.ceil(edges[1])]
    low, high = max(edges[0], 0), min(edges[1], H - 1)
    keep = 1 - np.clip((np.arange(H // 2) - low) / (high - low or 0.001), 0, 1)
    plain = 1.0 / theta ** (np.arange(0, H, 2) / H)
    m = scaling.get("mscale")
    all_dim = scaling.get("mscale_all_dim")
    usual = 0.1 * math.log(factor) + 1
    both = (0.1 * m * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1) if m and all_dim else usual
    given = scaling.get("attention_factor")
    return plain / factor * (1 - keep) + plain * keep, both if given is None else given


def mlx_lm(file: dict, length: int) -> tuple[np.ndarray, float]:
    """models/llama.py and rope_utils.py of 0.32, for the types that it computes as the others do."""
    scaling = file.get("rope_scaling") or {"type": "default"}
    kind = scaling.get("type") or scaling.get("rope_type", "default")
    assert kind in ("default", "linear", "dynamic", "llama3", "yarn")
    assert scaling.keys() & {"attention_factor", "truncate"} == set()
    return transformers_4(file, length)


def same(file: dict, rope: dict, reader, lengths=(1, 64, 65, 256, 257, 5000)) -> bool:
    config = config_file.from_dict(HARD | {"num_hidden_layers": 1, "rope_parameters": rope})
    for length in lengths:
        ours, factor = inverse_frequencies(config, length)
        theirs, their_factor = reader(file, length)
        ratio = ours.double().numpy() / theirs * (factor / their_factor)
        if np.abs(ratio - 1).max() > OTHER_PROGRAM or abs(factor - their_factor) > OTHER_PROGRAM:
            return False
    return True


@pytest.mark.parametrize("name", ROPE)
def test_transformers_4_reads_the_same_rotary_embedding(name, tmp_path):
    file = saved(ROPE[name], tmp_path)
    assert same(file, ROPE[name], transformers_4)
    only_new = {key: value for key, value in file.items() if key not in ("rope_theta", "rope_scaling")}
    assert same(only_new, ROPE[name], transformers_4) == (name == "default")  # what the old names are for


@pytest.mark.parametrize("name", ["default", "theta_500000", "linear", "dynamic", "llama3", "yarn", "yarn, mscale"])
def test_mlx_lm_reads_the_same_rotary_embedding(name, tmp_path):
    assert same(saved(ROPE[name], tmp_path), ROPE[name], mlx_lm)


@pytest.mark.parametrize("name", ROPE)
def test_older_readers_get_the_types_that_they_ask_for(name, tmp_path):
    """transformers 4 warns where a factor is not a float; everything but longrope ignores an outer length."""
    file = saved(ROPE[name], tmp_path)
    assert file["torch_dtype"] == file["dtype"] == "bfloat16"
    scaling = file["rope_scaling"] or {}
    floats = {"factor", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"}
    assert all(isinstance(scaling[key], float) for key in floats & scaling.keys())
    assert "rope_theta" not in scaling
    assert ("original_max_position_embeddings" in file) == name.startswith("longrope")


@pytest.mark.parametrize("name", ROPE)
def test_transformers_5_reads_both_names_without_a_word(name, tmp_path, caplog):
    saved(ROPE[name], tmp_path)
    transformers.utils.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    finally:
        transformers.utils.logging.disable_propagation()
    about_the_forms = [r.message for r in caplog.records if "ratio implicitly" not in r.message]
    assert about_the_forms == [] or name == "longrope, no factor"  # asks for a factor, in either form
    ours = Llama.from_pretrained(tmp_path).config
    assert differences(ours, theirs) == {}


@pytest.mark.parametrize("name", ROPE)
def test_what_is_saved_is_read_and_saved_again_alike(name, tmp_path):
    file = saved(ROPE[name], tmp_path)
    Llama.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 10000.0}, "rope_theta is 10000.0, but 500000.0 in rope_parameters"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling .* and rope_parameters .* disagree"),
        (
            {"rope_scaling": {**ROPES["llama3"], "rope_theta": 5e5, "factor": 32.0}},
            "rope_scaling .* and rope_parameters .* disagree",
        ),
    ],
)
def test_one_name_that_was_changed_alone_is_refused(changes, message, tmp_path):
    file = saved(ROPE["llama3, theta 500000"], tmp_path)
    config_file.from_dict(copy.deepcopy(file))
    with pytest.raises(ConfigError, match=message):
        config_file.from_dict(file | changes)
