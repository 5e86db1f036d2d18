"""Directories in Hugging Face's format: loaded strictly, saved so that transformers opens them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from llama_reference.standard.cases import DTYPES, Case
from llama_scratch import KVCache, Llama
from llama_scratch.checkpoint import config_file
from llama_scratch.checkpoint.files import CheckpointError

VARIANTS = ["hard", "no biases", "tied", "a group a head"]
LOADER = transformers.LlamaForCausalLM


def build(variant: str, dtype: torch.dtype = torch.float32) -> Llama:
    case = Case(variant)
    model = Llama(config_file.from_dict(case.config)).to(dtype)
    model.load_state_dict(case.state, strict=variant != "tied")
    return model.eval()


@pytest.fixture
def directory(tmp_path):
    build("hard").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "tied"])
def test_transformers_opens_what_we_save(variant, dtype, tmp_path):
    model, case = build(variant, dtype), Case(variant)
    model.save_pretrained(tmp_path)
    theirs, info = LOADER.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.dtype == dtype
    with torch.no_grad():
        expected = theirs(case.tokens, attention_mask=torch.ones_like(case.tokens), use_cache=False).logits
        assert torch.equal(model(case.tokens), expected)
        assert torch.equal(Llama.from_pretrained(tmp_path)(case.tokens), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "tied"])
def test_we_open_what_transformers_saves(variant, dtype, tmp_path):
    model, case = build(variant, dtype), Case(variant)
    theirs = LOADER(transformers.LlamaConfig(**case.config)).to(dtype)
    theirs.load_state_dict(model.state_dict())
    theirs.save_pretrained(tmp_path)
    loaded = Llama.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[key], weight) for key, weight in model.state_dict().items())
    assert loaded.lm_head.weight.dtype == dtype
    assert not loaded.training


def test_parameters_have_transformers_names_and_order():
    """Gradient clipping sums in this order, so that another one drifts within a few steps."""
    for variant in VARIANTS:
        theirs = LOADER(transformers.LlamaConfig(**Case(variant).config))
        ours = Llama(config_file.from_dict(Case(variant).config))
        assert [(n, p.shape) for n, p in ours.named_parameters()] == [
            (n, p.shape) for n, p in theirs.named_parameters()
        ]


def test_tied_is_one_tensor(tmp_path):
    build("tied").save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = Llama.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(list(model.parameters())) == len(load_file(tmp_path / "model.safetensors"))


def test_the_dtype_asked_for_is_given_and_frequencies_stay_float32(directory):
    model = Llama.from_pretrained(directory, dtype=torch.bfloat16)
    case = Case()
    theirs = LOADER.from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="eager")
    far = case.positions + 4000
    with torch.no_grad():
        expected = theirs(case.tokens, attention_mask=torch.ones_like(case.tokens), position_ids=far, use_cache=False)
        assert torch.equal(model(case.tokens, positions=far), expected.logits)
        cast = build("hard").to(torch.bfloat16)  # casting a built model is as good as loading it so
        assert torch.equal(cast(case.tokens, positions=far), expected.logits)


def test_it_trains_after_loading(directory):
    model = Llama.from_pretrained(directory)
    model(Case().tokens).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("model.safetensors", None, r"model\.safetensors is missing"),
        ("config.json", b"{", r"config\.json cannot be read"),
        ("config.json", b"[" * 100_000, r"config\.json cannot be read"),
        ("config.json", b"\xff\xfe", r"config\.json cannot be read"),
        ("config.json", b"[]", r"config\.json: config\.json is \[\], expected an object"),
        ("config.json", b'{"model_type": "gpt2"}', r"config\.json: model_type is 'gpt2'"),
        ("model.safetensors", b"", r"model\.safetensors cannot be read"),
        ("model.safetensors", b"\xff" * 64, r"model\.safetensors cannot be read"),
    ],
)
def test_a_bad_file_is_named(directory, file, content, message):
    (directory / file).unlink()
    if content is not None:
        (directory / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Llama.from_pretrained(directory)


def test_weights_start_as_transformers_starts_them():
    config = Case().config | {"initializer_range": 0.05, "pad_token_id": 7, "hidden_size": 512, "vocab_size": 999}
    torch.manual_seed(0)
    model = Llama(config_file.from_dict(config))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert 0.048 < parameter.std() < 0.052, name
            assert abs(parameter.mean()) < 5 * 0.05 / parameter.numel() ** 0.5, name
    assert not model.model.embed_tokens.weight[7].any()


def test_the_cache_is_of_the_models_configuration(directory):
    model = Llama.from_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    cache = KVCache(model.config, batch_size=2, max_length=7)
    assert cache.keys.shape == (config["num_hidden_layers"], 2, config["num_key_value_heads"], 7, config["head_dim"])
