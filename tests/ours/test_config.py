"""config.json of any vintage: read as transformers reads it, written so that transformers reads it, refused by name."""

import copy
import json
from dataclasses import fields

import pytest
import torch
import transformers

from llama_reference.standard.cases import HARD, ROPES
from llama_reference.standard.oracle.rotary import inverse_frequencies as transformers_frequencies
from llama_scratch import LlamaConfig
from llama_scratch.checkpoint import config_file
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.model.rotary import inverse_frequencies
from tests.ours.config_comparison import as_transformers, differences

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
VINTAGES = {
    "llama 1, almost empty": {"hidden_size": 64, "num_attention_heads": 8},
    "rope_theta outside, an integer": {"rope_theta": 1000000},
    "rope_scaling null": {"rope_theta": 5e5, "rope_scaling": None},
    "rope_scaling empty": {"rope_theta": 5e5, "rope_scaling": {}},
    "rope_scaling with type": {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "rope_scaling with rope_type": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "type and rope_type disagree": {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
    "llama 3.1": {"rope_theta": 5e5, "rope_scaling": LLAMA3, "max_position_embeddings": 131072},
    "llama3 without its original length": {"rope_scaling": {k: v for k, v in LLAMA3.items() if "original" not in k}},
    "original length outside": {"rope_scaling": LLAMA3, "original_max_position_embeddings": 4096},
    "transformers 5": {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
    "theta inside and outside": {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    "both dictionaries, type and rope_type": {
        "rope_theta": 5e5,
        "rope_scaling": {"type": "linear", "factor": 4},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
    },
    "bookkeeping": {
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}, "use_external_data_format": True},
        "_flash_attn_2_enabled": True,
        "_commit_hash": "4e20de3",
        "use_flashattn": True,
        "model_max_length": 4096,
        "unk_token_id": 0,
        "name": "mine",
    },
    "windows that are switched off": {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28},
    "keys of others with a Llama's own value": {
        "logits_scaling": 1.0,
        "layer_types": ["full_attention"] * 32,
        "norm_type": "rmsnorm",
    },
    "both dictionaries, the same": {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rope_parameters": LLAMA3},
    "yarn, finetuned": {
        "rope_scaling": {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True}
    },
    "torch_dtype": {"torch_dtype": "float16"},
    "dtype wins over torch_dtype": {"torch_dtype": "float16", "dtype": "bfloat16"},
    "explicit nulls": {"head_dim": None, "num_key_value_heads": None, "pad_token_id": None, "attention_dropout": None},
    "a list of stop ids": {"eos_token_id": [128001, 128008, 128009]},
    "pad -1": {"pad_token_id": -1, "bos_token_id": 0, "eos_token_id": 1, "max_sequence_length": 2048},
    "tensor parallel remnants": {"pretraining_tp": 2, "use_cache": False},
    "generation defaults and provenance": {
        "temperature": 0.6,
        "do_sample": True,
        "_name_or_path": "x",
        "architectures": ["LLaMAForCausalLM"],
    },
    "unknown keys that switch nothing on": {"bias": False, "rope_interleaved": False, "sliding_window": None},
}


def test_defaults_are_transformers():
    assert differences(LlamaConfig(), transformers.LlamaConfig()) == {}


def test_every_architecture_field_of_transformers_is_here():
    theirs = set(vars(transformers.LlamaConfig())) - set(vars(transformers.PreTrainedConfig()))
    assert theirs <= {field.name for field in fields(LlamaConfig)}


@pytest.mark.parametrize(
    "raw",
    [
        {"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096}},
        {"rope_scaling": {"rope_type": "default", "factor": 1.0, "low_freq_factor": None}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 2048}},
        {"partial_rotary_factor": 1.0, "rope_theta": 5e5},
    ],
    ids=str,
)
def test_rotary_keys_that_ask_for_nothing_change_nothing_in_transformers_either(raw):
    config = config_file.from_dict(raw)
    for length in (1, 2048, 2049, 5000):
        ours = inverse_frequencies(config, length)
        theirs = transformers_frequencies(copy.deepcopy(raw), length)
        assert torch.equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]


@pytest.mark.parametrize("vintage", VINTAGES)
def test_reads_what_transformers_reads(vintage):
    raw = {"model_type": "llama", **VINTAGES[vintage]}
    assert differences(config_file.from_dict(raw), as_transformers(raw)) == {}


@pytest.mark.parametrize("vintage", VINTAGES)
def test_writes_what_transformers_reads(vintage, tmp_path):
    config = config_file.from_dict(VINTAGES[vintage])
    (tmp_path / "config.json").write_text(json.dumps(config_file.to_dict(config)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.LlamaConfig)
    assert differences(config, theirs) == {}
    assert config_file.from_dict(config_file.to_dict(config)) == config


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', expected 'llama'"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size is 100, expected a multiple of num_att"),
        ({"num_key_value_heads": 5}, "num_attention_heads is 32, expected a multiple of num_key_value_heads = 5"),
        ({"head_dim": 7}, "head_dim is 7, expected an even"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', expected a finite number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"hidden_act": "swish_glu"}, "hidden_act is 'swish_glu', expected one of ['silu', 'gelu'"),
        ({"pad_token_id": 32000}, "pad_token_id is 32000, expected an id below vocab_size = 32000"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, expected true or false"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type is 'su', expected one of ['default', 'linear'"),
        ({"rope_scaling": {"type": "linear"}}, "type 'linear': factor is None"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "factor is '4'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "64 numbers, head_"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "mscale": 1.0}}, "mscale is 1.0, expected absent"),
        ({"rope_scaling": [1]}, "rope_scaling is [1], expected an object"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": LLAMA3}, "disagree"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "10000.0, but 500000.0 in rope_par"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"sliding_window": 4096}, "sliding_window is 4096, expected absent"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"attention_multiplier": 0.5}, "attention_multiplier is 0.5"),
        ({"use_sliding_window": True, "max_window_layers": 28}, "max_window_layers is 28; use_sliding_window is True"),
        ({"rope_interleaved": True}, "rope_interleaved is True"),
        ([], "config.json is [], expected an object"),
    ],
)  # fmt: skip
def test_refuses_by_name(raw, message):
    with pytest.raises(ConfigError) as error:
        config_file.from_dict(raw)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({"sliding_window": 4096}, ["sliding_window"]),
        ({"quantization_config": {"bits": 4}, "attention_multiplier": 0.5, "_x": 1}, ["attention_multiplier",
                                                                                      "quantization_config"]),
        ({"nobody_knows": "this"}, ["nobody_knows"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types"]),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "mscale": 1.5}}, ["rope_scaling.mscale"]),
    ],
)  # fmt: skip
def test_what_may_change_the_mathematics_is_refused_with_the_way_on(raw, names):
    """And that way leads to what transformers makes of the file."""
    with pytest.raises(ConfigError) as error:
        config_file.from_dict(raw)
    message = str(error.value)
    assert "remove it if it is a leftover" in message
    assert all(f"{name} is " in message or name.startswith("rope_scaling.") for name in names)
    assert message.endswith(" ".join(f"--ignore {name}" for name in names))
    inner = copy.deepcopy(raw)
    for name in names:
        outer, _, key = name.partition(".")
        inner.get(outer, {}).pop(key) if key else inner.pop(outer)
    assert config_file.from_dict(raw, ignore=names) == config_file.from_dict(inner)
    assert differences(config_file.from_dict(raw, ignore=names), as_transformers(inner)) == {}


@pytest.mark.parametrize(("name", "message"), [("hidden_size", "the model reads it"), ("typo", "there is no such key")])
def test_only_a_key_that_is_there_and_unknown_can_be_ignored(name, message):
    with pytest.raises(ConfigError, match=f"--ignore {name}: {message}"):
        config_file.from_dict({"hidden_size": 64, "num_attention_heads": 8, "sliding_window": 3}, ignore=[name])


@pytest.mark.parametrize("head_dim", [4, 20, 64, 100, 128])
@pytest.mark.parametrize("rope", ROPES)
def test_frequencies_and_attention_factor_have_transformers_bits(rope, head_dim):
    parameters = dict(ROPES[rope])
    for key in {"short_factor", "long_factor"} & parameters.keys():
        parameters[key] = [1.0 + 0.1 * i for i in range(head_dim // 2)]
    raw = HARD | {"head_dim": head_dim, "rope_parameters": parameters}
    for length in (1, 64, 65, 256, 257, 5000):
        ours, factor = inverse_frequencies(config_file.from_dict(raw), length)
        theirs, their_factor = transformers_frequencies(copy.deepcopy(raw), length)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs), f"length {length}"
        assert factor == their_factor


@pytest.mark.parametrize(
    "extra",
    [{"attention_factor": 1.5}, {"mscale": 0.7, "mscale_all_dim": 0.4}, {"mscale": 0.7}, {"truncate": False},
     {"truncate": None}, {"beta_fast": 8, "beta_slow": 2}, {"factor": 1.0}],
)  # fmt: skip
def test_yarn_options_have_transformers_bits(extra):
    raw = HARD | {"rope_parameters": ROPES["yarn"] | extra}
    ours = inverse_frequencies(config_file.from_dict(raw), 9)
    theirs = transformers_frequencies(copy.deepcopy(raw), 9)
    assert torch.equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]


def test_a_rope_key_that_the_type_does_not_use_is_named_with_the_remedy():
    with pytest.raises(ConfigError, match=r"low_freq_factor is 4.0, expected absent.*--ignore rope_scaling.low_freq"):
        LlamaConfig(rope_parameters={"rope_type": "default", "low_freq_factor": 4.0})
