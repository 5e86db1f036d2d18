"""Other formats become Hugging Face directories with the weights that they were written from, bit for bit."""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from llama_reference.__main__ import main as judge
from llama_reference.standard.budget import OTHER_PROGRAM
from llama_reference.standard.cases import ROPES
from llama_scratch import Llama, Tokenizer
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.meta_params import feed_forward_size
from llama_scratch.convert import ConvertConfig, convert, main, summary
from tests.ours.checkpoint_writers import (
    built,
    gguf_name,
    logits,
    made,
    neighbours,
    write_gguf,
    write_hf,
    write_llama2c,
    write_meta,
)
from tests.ours.test_tokenizer import ODD

HALVES = (torch.float32, torch.bfloat16)


def converted(source, **options):
    destination = source.parent / "converted"
    checkpoint = convert(ConvertConfig(source, destination, **options))
    assert summary(ConvertConfig(source, destination, **options), checkpoint)
    return Llama.from_pretrained(destination)


def has(model: Llama, config, state) -> bool:
    """Every tensor and the logits are those of the source."""
    mine = model.state_dict()
    dtype = next(iter(state.values())).dtype
    assert {weight.dtype for weight in mine.values()} == {dtype}
    assert mine.keys() - state.keys() <= {"lm_head.weight"}
    assert model.config.tie_word_embeddings == config["tie_word_embeddings"]
    assert torch.equal(logits(model), logits(built(config, state)))
    return all(torch.equal(mine[key], weight) for key, weight in state.items())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["tied", "all at once"])
def test_hugging_face(kind, variant, tmp_path):
    config, state = made(variant, torch.bfloat16)
    assert has(converted(write_hf(tmp_path / "source", config, state, kind, shards=2)), config, state)


OURS = Path(__file__).parents[1] / "adapters" / "ours.py"
WRITERS = {
    "safetensors": lambda path, *made: write_hf(path, *made, "safetensors"),
    "bin": lambda path, *made: write_hf(path, *made, "bin", shards=2),
    "Meta": lambda path, *made: write_meta(path, *made, 2),
    "llama2.c": lambda path, *made: write_llama2c(path.with_suffix(".bin"), *made),
    "GGUF": lambda path, *made: write_gguf(path.with_suffix(".gguf"), *made),
}


@pytest.mark.parametrize("source", WRITERS)
def test_layer_by_layer_the_result_is_what_transformers_reads_in_it(source, tmp_path, capsys):
    config, state = made("GQA", vocab_size=102)
    converted(WRITERS[source](tmp_path / "source", config, state))
    status = judge(["verify", str(tmp_path / "converted"), str(OURS)])
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("parts", [1, 2], ids=["one part", "two parts"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("variant", ["untied", "tied", "GQA"])
def test_meta(variant, dtype, parts, tmp_path):
    config, state = made(variant, dtype, num_hidden_layers=3, vocab_size=102)
    assert has(converted(write_meta(tmp_path / "source", config, state, parts)), config, state)


def test_meta_of_llama_3_splits_the_embedding_by_rows(tmp_path):
    config, state = made("GQA", vocab_size=104)
    source = write_meta(tmp_path / "source", config, state, parts=2, by_rows=True, vocab_size=104)
    assert has(converted(source), config, state)


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "expected"),
    [(4096, 256, None, 11008), (5120, 256, None, 13824), (8192, 256, None, 22016), (8192, 4096, 1.3, 28672),
     (4096, 1024, 1.3, 14336), (2048, 256, 1.5, 8192), (3072, 256, 1.0, 8192), (16384, 4096, 1.2, 53248),
     (1, 1, 1.5, 3), (1, 1, 1.3, 2)],
)  # fmt: skip
def test_the_feed_forward_width_of_every_published_llama(dim, multiple_of, multiplier, expected):
    """Sizes of Llama 1 7B, 13B and 65B, 2 70B, 3 8B, 3.2 1B and 3B, 3.1 405B; and two that show where it rounds."""
    assert feed_forward_size(dim, multiple_of, multiplier) == expected


@pytest.mark.parametrize(
    ("params", "tied", "version", "expected"),
    [
        ({"norm_eps": 1e-6}, False, None, (2048, "default", 10000.0, 2)),
        ({}, False, None, (4096, "default", 10000.0, 2)),
        ({}, False, "1", (2048, "default", 10000.0, 2)),
        ({"rope_theta": 1e6}, False, None, (16384, "default", 1e6, 2)),
        ({"rope_theta": 5e5}, False, "3", (8192, "default", 5e5, [128001, 128008, 128009])),
        ({"rope_theta": 5e5, "use_scaled_rope": True}, False, None, (131072, 8.0, 5e5, [128001, 128008, 128009])),
        ({"rope_theta": 5e5, "use_scaled_rope": True}, True, None, (131072, 32.0, 5e5, [128001, 128008, 128009])),
        ({"rope_theta": 5e5, "use_scaled_rope": True}, True, "3.1", (131072, 8.0, 5e5, [128001, 128008, 128009])),
        ({"max_seq_len": 777, "ffn_dim_multiplier": None, "n_kv_heads": 8}, False, None, (777, "default", 1e4, 2)),
    ],
)
def test_what_params_json_leaves_open_is_concluded(params, tied, version, expected, tmp_path):
    config, state = made("tied" if tied else "untied")
    model = converted(write_meta(tmp_path / "source", config, state, **params), llama_version=version)
    context, kind, theta, stops = expected
    rope = model.config.rope_parameters
    assert model.config.max_position_embeddings == context
    assert model.config.eos_token_id == stops
    assert rope["rope_theta"] == theta
    assert rope.get("factor", rope["rope_type"]) == kind
    assert model.config.rms_norm_eps == params.get("norm_eps", 1e-5)
    assert all(torch.equal(model.state_dict()[key], weight) for key, weight in state.items())


@pytest.mark.parametrize("variant", ["untied", "tied", "GQA"])
def test_llama2c(variant, tmp_path):
    config, state = made(variant, num_hidden_layers=3)
    model = converted(write_llama2c(tmp_path / "source" / "model.bin", config, state))
    assert has(model, config, state)
    assert model.config.max_position_embeddings == config["max_position_embeddings"]


def test_a_trained_llama2c_model_gives_the_logits_of_the_c_program(shared, tmp_path):
    config = json.loads((shared / "stories260K" / "config.json").read_text())
    state = load_file(shared / "stories260K" / "model.safetensors")
    model = converted(write_llama2c(tmp_path / "stories260K.bin", config, state))
    ids = torch.tensor([json.loads((shared / "stories260K" / "greedy_ids.json").read_text())])
    theirs = torch.from_numpy(np.load(shared / "stories260K" / "greedy_logits_float32.npy"))
    with torch.no_grad():
        assert (model(ids[:, :256])[0] - theirs).abs().max() < OTHER_PROGRAM


KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["untied", "tied", "GQA", "biases", "head_dim override"])
def test_gguf(variant, kind, tmp_path):
    config, state = made(variant, KINDS[kind])
    assert has(converted(write_gguf(tmp_path / "model.gguf", config, state, kind)), config, state)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1"])
def test_quantised_gguf_is_what_the_package_makes_of_it(kind, tmp_path):
    config, state = made("GQA", intermediate_size=96)
    quantised = {}
    for key, weight in state.items():
        if weight.ndim == 2:  # rows are quantised one by one, so that their order does not matter
            numbers = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
            weight = torch.from_numpy(gguf.quants.dequantize(numbers, gguf.GGMLQuantizationType[kind]))
        quantised[key] = weight
    assert any(not torch.equal(quantised[key], weight) for key, weight in state.items())
    model = converted(write_gguf(tmp_path / "model.gguf", config, state, kind))
    assert has(model, config, quantised)


def test_gguf_with_norms_that_its_dtype_cannot_hold_becomes_float32(tmp_path):
    config, state = made("untied", torch.bfloat16)
    state = {key: weight.float() for key, weight in state.items()}
    state["model.norm.weight"] += 1e-5
    assert has(converted(write_gguf(tmp_path / "model.gguf", config, state, "BF16")), config, state)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_gguf_with_the_frequencies_of_llama_3(factor, tmp_path):
    rope = ROPES["llama3"] | {"rope_theta": 500000.0, "factor": factor, "original_max_position_embeddings": 8192}
    config, state = made("head_dim override", rope_parameters=rope)

    def factors(writer, off=0.0):
        """Yarn-like bands of wavelength in units of the first context: kept below 1/4, divided by `factor` above 1."""
        plain = 500000.0 ** (-np.arange(0, 20, 2) / 20)
        part = np.clip((8192 * plain / (2 * np.pi) - 1) / (4 - 1), 0, 1)
        numbers = 1 / ((1 - part) / factor + part)
        writer.add_tensor("rope_freqs.weight", (numbers + off).astype(np.float32))

    model = converted(write_gguf(tmp_path / "model.gguf", config, state, extra=factors))
    assert model.config.rope_parameters == rope
    assert has(model, config, state)
    other = write_gguf(tmp_path / "other.gguf", config, state, extra=lambda writer: factors(writer, off=0.5))
    with pytest.raises(
        CheckpointError, match=r"other\.gguf: rope_freqs\.weight is .*, expected the factors of Llama 3"
    ):
        convert(ConvertConfig(other, tmp_path / "never"))


def test_gguf_with_linear_scaling_and_more_stop_ids(tmp_path):
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    config, state = made(rope_parameters=linear)

    def extra(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_eot_token_id(9)
        writer.add_pad_token_id(7)

    model = converted(write_gguf(tmp_path / "model.gguf", config, state, extra=extra))
    assert has(model, config | {"pad_token_id": 7}, state)
    assert model.config.rope_parameters == linear
    assert (model.config.eos_token_id, model.config.pad_token_id) == ([2, 9], 7)


def rope_freqs(factor: float, theta: float, head_dim: int) -> np.ndarray:
    """What llama.cpp stores for Llama 3's scaled rotary, by its own loop."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0, 2.5])
@pytest.mark.parametrize("theta", [500.0, 1000.0, 2500.0, 500000.0])
def test_gguf_of_a_model_so_small_that_no_frequency_is_low(theta, factor, tmp_path):
    """With theta 500 none is scaled at all; with 1,000 and 2,500 the longest wavelength lies in the blended band."""
    rope = ROPES["llama3"] | {"rope_theta": theta, "factor": factor, "original_max_position_embeddings": 8192}
    config, state = made("head_dim override", rope_parameters=rope)
    factors = rope_freqs(factor, theta, 20)
    assert (factors.max() == 1.0) == (theta == 500.0)
    assert (factors.max() == np.float32(factor)) == (theta == 500000.0)
    extra = lambda writer: writer.add_tensor("rope_freqs.weight", factors)  # noqa: E731
    model = converted(write_gguf(tmp_path / "model.gguf", config, state, extra=extra))
    plain = {"rope_type": "default", "rope_theta": theta}
    found = model.config.rope_parameters
    assert found == plain if theta == 500.0 else found | {"factor": factor} == rope
    assert abs(found.get("factor", factor) / factor - 1) < OTHER_PROGRAM
    assert (logits(model) - logits(built(config, state))).abs().max() < OTHER_PROGRAM


@pytest.mark.parametrize(
    ("add", "rope"),
    [
        (lambda w: w.add_string("llama.tensor_data_layout", "Meta AI original pth"), ROPES["default"]),
        (lambda w: w.add_float32("llama.rope.scale_linear", 1.0), ROPES["default"]),
        (lambda w: w.add_float32("llama.rope.scale_linear", 4.0), ROPES["linear"]),
        (lambda w: w.add_float32("llama.rope.scaling.factor", 4.0), ROPES["linear"]),
        (lambda w: [w.add_float32("llama.rope.scaling.factor", 4.0), w.add_string("llama.rope.scaling.type", "none")],
         ROPES["default"]),
        (lambda w: w.add_float32("llama.rope.scaling.attn_factor", 1.0), ROPES["default"]),
        (lambda w: w.add_bool("llama.attention.causal", True), ROPES["default"]),
        (lambda w: w.add_float32("llama.logit_scale", 1.0), ROPES["default"]),
    ],
)  # fmt: skip
def test_gguf_that_says_what_a_llama_does_is_read_as_llama_cpp_reads_it(add, rope, tmp_path):
    """Without a type the scaling is linear there: llama-model.cpp, load_hparams."""
    config, state = made("GQA", rope_parameters=rope)
    model = converted(write_gguf(tmp_path / "model.gguf", config, state, extra=add))
    assert model.config.rope_parameters == rope
    assert has(model, config, state)


def test_a_key_of_a_gguf_is_ignored_when_told(tmp_path):
    config, state = made("GQA")
    add = lambda writer: writer.add_float32("llama.logit_scale", 0.5)  # noqa: E731
    source = write_gguf(tmp_path / "model.gguf", config, state, extra=add)
    with pytest.raises(CheckpointError, match=r"logit_scale is 0\.5, .*: --ignore llama\.logit_scale$"):
        convert(ConvertConfig(source, tmp_path / "never"))
    assert has(converted(source, ignore=("llama.logit_scale",)), config, state)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda w: w.add_string("llama.tensor_data_layout", "other"),
            "tensor_data_layout is 'other', expected 'Meta AI",
        ),
        (
            lambda w: w.add_float32("llama.rope.scaling.attn_factor", 1.5),
            "rope.scaling.attn_factor is 1.5, expected 1.0",
        ),
        (lambda w: w.add_uint32("llama.expert_count", 8), "llama.expert_count is 8, expected absent"),
        (lambda w: w.add_float32("llama.logit_scale", 0.5), "llama.logit_scale is 0.5, expected absent"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "llama.rope.scaling.type is 'yarn'"),
        (lambda w: w.add_uint16("split.count", 2), "split.count is 2, expected 1"),
        (lambda w: w.add_tensor("blk.0.ffn_gate_exps.weight", np.ones(3, np.float32)), "ffn_gate_exps.weight is unexp"),
        (lambda w: w.add_tensor("blk.7.attn_q.weight", np.ones((3, 3), np.float32)), "blk.7.attn_q.weight is unexpec"),
        (lambda w: w.add_tensor("a", np.ones(3, np.int32)), "a is unexpected"),
    ],
)
def test_gguf_with_what_this_model_does_not_have_is_refused(add, message, tmp_path):
    source = write_gguf(tmp_path / "model.gguf", *made(), extra=add)
    with pytest.raises(CheckpointError) as error:
        convert(ConvertConfig(source, tmp_path / "never"))
    assert message in str(error.value)


def test_gguf_with_an_array_that_claims_the_world_is_refused_at_once(tmp_path):
    content = write_gguf(tmp_path / "model.gguf", *made()).read_bytes()
    start = content.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4
    for kind in (0, 8, 9, 12, 77):
        for length in (2**63, 2**40):
            claim = kind.to_bytes(4, "little") + length.to_bytes(8, "little")
            (tmp_path / "model.gguf").write_bytes(content[:start] + claim + content[start + 12 :])
            with pytest.raises(CheckpointError, match=r"model\.gguf cannot be read"):
                convert(ConvertConfig(tmp_path / "model.gguf", tmp_path / "never"))


def test_gguf_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    source = write_gguf(tmp_path / "model.gguf", *made())
    monkeypatch.delitem(sys.modules, "llama_scratch.checkpoint.gguf_file", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        CheckpointError, match=r"model\.gguf needs the gguf package: pip install 'llama_scratch\[gguf\]'"
    ):
        convert(ConvertConfig(source, tmp_path / "never"))


def test_every_missing_and_misshapen_tensor_of_metas_is_named(tmp_path):
    source = write_meta(tmp_path / "source", *made("untied", num_hidden_layers=1))
    path = source / "consolidated.00.pth"
    part = torch.load(path)
    for name in part.keys() - {"rope.freqs"}:
        torch.save({k: w for k, w in part.items() if k != name}, path)
        if name != "output.weight":  # without it the head is tied
            refused(source, f"consolidated.00.pth: {name}")
        torch.save(part | {name: part[name][:-2]}, path)
        # the embedding has the last word on how many words there are
        refused(source, f"consolidated.00.pth: {name.replace('tok_embeddings', 'output')} has shape")
        torch.save(part | {name + "s": part[name]}, path)
        refused(source, f"consolidated.00.pth: {name}s is unexpected")


def test_every_missing_and_misshapen_tensor_of_gguf_is_named(tmp_path):
    config, state = made("untied", num_hidden_layers=1)
    for key, weight in state.items():
        if key != "lm_head.weight":
            source = write_gguf(tmp_path / "model.gguf", config, {k: w for k, w in state.items() if k != key})
            refused(source, f"model.gguf: {key} is missing")
        source = write_gguf(tmp_path / "model.gguf", config, state | {key: weight[:-2].contiguous()})
        refused(source, f"model.gguf: {gguf_name(key.replace('model.embed_tokens', 'lm_head'))} has shape")


def refused(source, named: str) -> None:
    destination = source.parent / "never"
    with pytest.raises(CheckpointError) as error:
        convert(ConvertConfig(source, destination))
    assert source.name in str(error.value)
    assert named in str(error.value)
    assert not destination.exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"moe": {"num_experts": 8}}, "moe is {'num_experts': 8}, expected absent"),
        ({"n_layers": 10**9}, "tensors, but n_layers is 1000000000: most are missing"),
        ({"n_layers": 3}, "layers.2.attention.wk.weight is missing"),
        ({"dim": 2**62}, "intermediate_size is 12297829382473034412, expected a positive integer"),
        ({"dim": "64"}, "dim is '64', expected a positive integer"),
        ({"n_heads": 7}, "hidden_size is 64, expected a multiple of num_attention_heads = 7"),
        ({"n_heads": 4}, "attention"),
        ({"n_kv_heads": 4}, "layers.0.attention.wk.weight has shape (64, 64), expected (32, 64)"),
        ({"multiple_of": 256}, "layers.0.feed_forward.w1.weight has shape (172, 64), expected (256, 64)"),
        ({"ffn_dim_multiplier": 1e300}, "ffn_dim_multiplier is 1e+300"),
        ({"vocab_size": 5}, "vocab_size is 5, expected 101"),
        ({"use_scaled_rope": 1}, "use_scaled_rope is 1, expected true or false"),
        ({"norm_eps": None}, "norm_eps is None, expected a finite number"),
    ],
)
def test_params_that_do_not_fit_are_named(params, message, tmp_path):
    source = write_meta(tmp_path / "source", *made(), **params)
    if message == "attention":  # other heads of the same whole cannot be seen from the shapes
        assert converted(source).config.head_dim == 16
    else:
        refused_with(source, message)


def refused_with(source, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        convert(ConvertConfig(source, source.parent / "never"))
    assert message in str(error.value)


def test_meta_parts_that_do_not_belong_together_are_refused(tmp_path):
    config, state = made("untied", vocab_size=104)
    source = write_meta(tmp_path / "source", config, state, parts=4)
    (source / "consolidated.01.pth").rename(tmp_path / "away")
    refused_with(source, "consolidated.01.pth is missing")
    (tmp_path / "away").rename(source / "consolidated.01.pth")
    last = source / "consolidated.03.pth"
    part = torch.load(last)
    torch.save(part | {"norm.weight": part["norm.weight"] + 1}, last)
    refused_with(source, "norm.weight differs between the parts")
    torch.save({k: w for k, w in part.items() if k != "norm.weight"}, last)
    refused_with(source, "consolidated.03.pth: norm.weight is not in every part")
    torch.save(part | {"output.weight": part["output.weight"][:-1]}, last)
    refused_with(source, "output.weight has shapes [(26, 64), (26, 64), (26, 64), (25, 64)], expected equal parts")
    last.unlink()
    refused_with(source, "expected")


@pytest.mark.parametrize("change", [b"\0", b""], ids=["longer", "shorter"])
def test_a_llama2c_file_of_another_length_is_refused(change, tmp_path):
    source = write_llama2c(tmp_path / "model.bin", *made())
    content = source.read_bytes()
    source.write_bytes(content + change if change else content[:-1])
    refused_with(source, f"model.bin has {len(content) + (1 if change else -1)} bytes, expected {len(content)} by its")
    source.write_bytes(b"24ka\1\0\0\0" + content[8:])
    refused_with(source, "model.bin: version 1 of the format, expected the one without a version")


def test_dtype_and_shards_are_as_asked_for_and_the_tokenizer_comes_along(tmp_path, shared):
    config, state = made("GQA")
    source = write_meta(tmp_path / "source", config, state)
    (source / "tokenizer.model").write_bytes((shared / "stories260K" / "tokenizer.model").read_bytes())
    model = converted(source, dtype="bfloat16", max_shard_size=20_000)
    assert all(torch.equal(model.state_dict()[key], weight.bfloat16()) for key, weight in state.items())
    assert len(list((tmp_path / "converted").glob("*.safetensors"))) > 2
    assert (tmp_path / "converted" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("name", ["llama2", "llama3"])
def test_metas_tokenizer_has_the_same_ids_in_transformers(name, tmp_path, shared):
    """From a lone tokenizer.model transformers makes other ids of nearly every text (Llama 2), or none (Llama 3)."""
    config, state = made("GQA", vocab_size=128256 if name == "llama3" else 32000, num_hidden_layers=1)
    source = write_meta(tmp_path / "source", config, state)
    content = (shared / "tokenizers" / name / "tokenizer.model").read_bytes()
    (source / "tokenizer.model").write_bytes(content)
    assert "copied tokenizer.model; made tokenizer.json, tokenizer_config.json" in said_of(source)
    assert (tmp_path / "converted" / "tokenizer.model").read_bytes() == content
    ours = Tokenizer.from_pretrained(source)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "converted")
    for text in ODD:
        assert theirs.encode(text, split_special_tokens=True) == ours.encode(text, bos=True), ascii(text)


def said_of(source):
    config = ConvertConfig(source, source.parent / "converted")
    return summary(config, convert(config))


def test_a_directory_keeps_its_tokenizer_as_it_is(tmp_path):
    """One that cannot be opened, and one that is no tokenizer, too."""
    source = write_hf(tmp_path / "source", *made())
    (source / "tokenizer.model").write_bytes(b"garbage")
    (source / "vocab.json").write_text("{}")
    assert f"copied tokenizer.model, vocab.json, which cannot be opened: {source}: tokenizer.model: " in said_of(source)
    assert (tmp_path / "converted" / "tokenizer.model").read_bytes() == b"garbage"
    shutil.rmtree(tmp_path / "converted")
    (source / "tokenizer.model").unlink()
    assert f"no tokenizer: {source} holds neither tokenizer.json nor tokenizer.model; give one with" in said_of(source)
    assert (tmp_path / "converted" / "vocab.json").exists()


def test_an_occupied_destination_is_refused_and_an_empty_one_is_filled(tmp_path):
    source = write_hf(tmp_path / "source", *made())
    destination = tmp_path / "destination"
    destination.mkdir()
    convert(ConvertConfig(source, destination))
    with pytest.raises(CheckpointError, match="destination exists already, expected nothing or an empty directory"):
        convert(ConvertConfig(source, destination))
    with pytest.raises(CheckpointError, match=r"config\.json exists already"):
        convert(ConvertConfig(source, source / "config.json"))


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path):
    config, state = made()
    source = write_hf(tmp_path / "source", config, state | {"model.norm.weight": torch.full((64,), torch.nan)})
    (tmp_path / ".new.01234567.tmp").mkdir()  # of one that was killed
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds NaN"):
        convert(ConvertConfig(source, tmp_path / "new", check_finite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["nothing", "empty", "text.txt", "model.bin"])
def test_what_is_no_checkpoint_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("GGU")
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    refused(tmp_path / name, "")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    config, state = made("tied", torch.bfloat16)
    source = write_meta(tmp_path / "source", config, state, use_scaled_rope=True)
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(tmp_path / "new"), "--dtype", "float32"])
    main()
    printed = capsys.readouterr()
    assert "inferred (params.json does not state it)" in printed.out
    assert "'factor': 32.0" in printed.out
    assert "no tokenizer" in printed.out
    assert "100%" in printed.err
    assert Llama.from_pretrained(tmp_path / "new").lm_head.weight.dtype == torch.float32
    with pytest.raises(SystemExit, match=r"error: .*new exists already"):
        main()


def test_the_fixtures_order_of_rows_is_the_one_that_rotary_pairs():
    """Two heads of four: rows 0 and 2 turn together in Hugging Face's order, and are neighbours in the others'."""
    assert neighbours(torch.arange(8.0)[:, None], 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
