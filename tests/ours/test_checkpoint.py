"""Directories in Hugging Face's format: loaded strictly, saved so that transformers opens them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llama_scratch import KVCache, Llama, config_file
from llama_scratch.checkpoint import CheckpointError
from reference.cases import DTYPES, Case

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
@pytest.mark.parametrize("variant", VARIANTS)
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
@pytest.mark.parametrize("variant", VARIANTS)
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
    model, case = Llama.from_pretrained(directory, dtype=torch.bfloat16), Case()
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


def test_saving_over_the_directory_it_was_loaded_from_is_safe(directory):
    model = Llama.from_pretrained(directory)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    model.save_pretrained(directory)
    after = Llama.from_pretrained(directory).state_dict()
    assert all(torch.equal(after[key], weight) for key, weight in before.items())
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def rewrite(directory, change) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def test_every_missing_key_is_named(directory):
    for key in Case().state:
        weights = load_file(directory / "model.safetensors")
        kept = weights.pop(key)
        save_file(weights, directory / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: {key} is missing$"):
            Llama.from_pretrained(directory)
        save_file(weights | {key: kept}, directory / "model.safetensors")


def test_every_misshapen_key_is_named(directory):
    original = load_file(directory / "model.safetensors")
    for key, weight in original.items():
        save_file(original | {key: weight[:-2].clone()}, directory / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"{key} has shape \(.*\), expected \({weight.shape[0]},"):
            Llama.from_pretrained(directory)


@pytest.mark.parametrize(
    "key", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.mlp.extra", "embed_tokens.weight"]
)
def test_an_unexpected_key_is_named(directory, key):
    rewrite(directory, lambda weights: weights.update({key: torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=f"{key} is unexpected"):
        Llama.from_pretrained(directory)


def test_stored_frequencies_of_old_files_are_ignored(directory):
    expected = Llama.from_pretrained(directory)(Case().tokens)
    poison = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.full((10,), torch.nan) for i in range(3)}
    rewrite(directory, lambda weights: weights.update(poison))
    assert torch.equal(Llama.from_pretrained(directory)(Case().tokens), expected)


def test_a_tied_head_that_differs_is_refused(tmp_path):
    build("tied").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    Llama.from_pretrained(tmp_path)
    rewrite(tmp_path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        Llama.from_pretrained(tmp_path)


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


def test_a_truncated_file_is_refused(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Llama.from_pretrained(directory)


def test_integers_are_no_weights(directory):
    rewrite(directory, lambda w: w.update({"model.norm.weight": torch.ones(72, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds torch\.int8"):
        Llama.from_pretrained(directory)


def test_a_failing_write_leaves_the_old_files(directory, monkeypatch):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    model = build("tied")

    def fail(_weights, path, **_):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("llama_scratch.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_weights_start_as_transformers_starts_them():
    config = Case().config | {"initializer_range": 0.05, "pad_token_id": 7, "hidden_size": 512, "vocab_size": 999}
    model = Llama(config_file.from_dict(config))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert 0.048 < parameter.std() < 0.052, name
            assert abs(parameter.mean()) < 0.001, name
    assert not model.model.embed_tokens.weight[7].any()


def test_the_cache_is_of_the_models_configuration(directory):
    model = Llama.from_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    cache = KVCache(model.config, batch_size=2, max_length=7)
    assert cache.keys.shape == (config["num_hidden_layers"], 2, config["num_key_value_heads"], 7, config["head_dim"])
