"""Published configurations: read as transformers reads them, and a small model of each shape equal to transformers'."""

import copy
import json
from pathlib import Path

import pytest
import torch

from llama_reference.standard import cases, oracle
from llama_reference.standard.oracle.rotary import inverse_frequencies as transformers_frequencies
from llama_scratch import LlamaConfig
from llama_scratch.checkpoint import config_file
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.model.rotary import inverse_frequencies
from tests.adapters import ours
from tests.ours.config_comparison import as_transformers, differences

FILE = Path(cases.__file__).with_name("real_configs.json")
CONFIGS = {entry["name"]: entry["config"] for entry in json.loads(FILE.read_text())}
# Files that transformers opens without a word, and that are refused here: name -> what the refusal must say, and why.
REFUSED = {
    "internlm-20b style keys forced to LlamaForCausalLM": (
        "rotary is {'base': 10000, 'type': 'dynamic'}, expected absent",
        "InternLM's own key asks for dynamic rotary; transformers' Llama ignores it and turns by the default type",
    ),
    "quirk: both spellings of theta": (
        "rope_theta is 10000.0, but 500000.0 in rope_parameters",
        "transformers 4 reads the first and transformers 5 the second: two models in one file",
    ),
}
READ = [name for name in CONFIGS if name not in REFUSED]

V, F, L, T = 61, 44, 2, 24


def scaled_down(raw: dict) -> dict:
    """A small model's file with the proportions of the big one's: heads a group, hidden a head, rotary, eps, switches.

    What llama_reference.standard.cases.weights reads is spelled out; the rotary keys stay as the file spells them.
    """
    big = config_file.from_dict(raw)
    R = big.num_attention_heads // big.num_key_value_heads
    G = min(big.num_key_value_heads, 3)
    N, H = R * G, big.head_dim if big.head_dim <= 32 else 16
    D = N * (big.hidden_size * H // (big.num_attention_heads * big.head_dim))
    sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": L}
    sizes |= {"num_attention_heads": N, "num_key_value_heads": G, "head_dim": H}
    switches = {name: getattr(big, name) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")}
    outside = big.pad_token_id is not None and big.pad_token_id >= V
    return raw | sizes | switches | {"pad_token_id": V - 1 if outside else big.pad_token_id}


def far_positions(config: LlamaConfig) -> torch.Tensor:
    """(2, T): a row from the first position on, one that steps over the end of the context."""
    return torch.arange(T) + torch.tensor([[0], [config.max_position_embeddings - T // 2]])


def test_the_collection_is_whole():
    assert len(CONFIGS) == 25
    assert CONFIGS.keys() >= REFUSED.keys()
    configs = [config_file.from_dict(CONFIGS[name]) for name in READ]
    assert len({(c.num_attention_heads, c.num_key_value_heads, c.head_dim) for c in configs}) > 8
    kinds = {c.rope_parameters["rope_type"] for c in configs}
    assert kinds == {"default", "linear", "dynamic", "yarn", "llama3"}


@pytest.mark.parametrize("name", READ)
def test_every_field_is_read_as_transformers_reads_it(name):
    before = copy.deepcopy(CONFIGS[name])
    assert differences(config_file.from_dict(CONFIGS[name]), as_transformers(CONFIGS[name])) == {}
    assert CONFIGS[name] == before


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_ignores_silently_is_refused_by_name(name):
    message, _ = REFUSED[name]
    key = message.split()[0]
    with pytest.raises(ConfigError) as error:
        config_file.from_dict(CONFIGS[name])
    assert message in str(error.value)
    without = {k: v for k, v in CONFIGS[name].items() if k != key}
    assert differences(config_file.from_dict(without), as_transformers(CONFIGS[name])) == {}


@pytest.mark.parametrize("name", READ)
def test_frequencies_and_attention_factor_have_transformers_bits(name):
    config = config_file.from_dict(CONFIGS[name])
    context = config.max_position_embeddings
    original = config.rope_parameters.get("original_max_position_embeddings", context)
    for length in {1, original, original + 1, context, context + 1, 4 * context}:
        mine, factor = inverse_frequencies(config, length)
        theirs, their_factor = transformers_frequencies(copy.deepcopy(CONFIGS[name]), length)
        assert torch.equal(mine, theirs), f"length {length}"
        assert factor == their_factor, f"length {length}"


@pytest.mark.parametrize("name", READ)
def test_a_small_model_of_the_shape_keeps_its_proportions(name):
    big = config_file.from_dict(CONFIGS[name])
    small = config_file.from_dict(scaled_down(CONFIGS[name]))
    assert big.num_attention_heads * small.num_key_value_heads == small.num_attention_heads * big.num_key_value_heads
    assert big.hidden_size * small.head_dim * small.num_attention_heads == (
        small.hidden_size * big.head_dim * big.num_attention_heads
    )
    same = ["rope_parameters", "rms_norm_eps", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings"]
    assert [getattr(big, field) for field in same] == [getattr(small, field) for field in same]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", READ)
def test_a_small_model_of_the_shape_has_transformers_logits(name, dtype):
    raw = scaled_down(CONFIGS[name])
    state = cases.weights(raw, seed=0)
    positions = far_positions(config_file.from_dict(raw))
    tokens = torch.randint(V, positions.shape, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(T) >= torch.tensor([[3], [0]])).long()
    with torch.no_grad():
        mine = ours.llama(ours.build(raw, state, dtype), tokens, positions, mask)
        theirs = oracle.llama(oracle.build(raw, state, dtype), tokens, positions, mask)
    assert torch.isfinite(theirs).all()
    assert torch.equal(mine[mask.bool()], theirs[mask.bool()])
