"""Whatever is wrong with a directory is one line that names the file and the key; nothing in it is ever run."""

import json
import os
import pickle
import re
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_scratch import Llama
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.errors import MESSAGE
from tests.ours.checkpoint_writers import made, write_hf

NORM, DOWN = "model.norm.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def one(tmp_path):
    """A whole model with biases, in one file."""
    return write_hf(tmp_path / "one", *made("biases"))


@pytest.fixture
def two(tmp_path):
    """The same in two files: keys in turn, in alphabetical order."""
    return write_hf(tmp_path / "two", *made("biases"), shards=2)


def refusal(directory, **how) -> str:
    """The message; it is one line."""
    with pytest.raises(CheckpointError) as caught:
        Llama.from_pretrained(directory, **how)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < MESSAGE + 10
    return message


def change_index(directory, change) -> None:
    index = next(directory.glob("*.index.json"))
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_key_that_is_removed_is_named(kind, tmp_path):
    config, state = made("biases")
    for key in state:
        write_hf(tmp_path, config, {k: weight for k, weight in state.items() if k != key}, kind)
        assert re.search(rf"model\.{kind}: {re.escape(key)} is missing$", refusal(tmp_path)), key


def test_every_key_that_is_added_is_named(tmp_path):
    """A second one of each, each of a layer too many, and each bias where there are none."""
    config, state = made("GQA")
    biases = made("biases")[1]
    added = [f"{key}_scale" for key in state] + [key.replace("layers.1.", "layers.2.") for key in state]
    added += [key for key in biases if key.endswith(".bias")] + ["lm_head.bias", f"module.{NORM}", f"_orig_mod.{NORM}"]
    for key in set(added) - state.keys():
        write_hf(tmp_path, config, state | {key: torch.ones(3)})
        assert refusal(tmp_path).endswith(f"model.safetensors: {key} is unexpected"), key


def test_every_shape_that_is_changed_is_named(tmp_path):
    """A row less, a row more, an axis less, an axis more, and turned on its side."""
    config, state = made("biases", num_hidden_layers=1)
    for key, weight in state.items():
        wrong = [weight[:-1], torch.cat((weight, weight[:1])), weight.flatten()[:1].squeeze(), weight[None]]
        for other in wrong + ([weight.t()] if weight.ndim == 2 and len(set(weight.shape)) == 2 else []):
            write_hf(tmp_path, config, state | {key: other.contiguous().clone()})
            expected = f"{key} has shape {tuple(other.shape)}, expected {tuple(weight.shape)}"
            assert refusal(tmp_path).endswith(f"model.safetensors: {expected}")


def test_every_type_that_is_no_floating_point_is_named(tmp_path):
    config, state = made("untied")
    for dtype in (torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn):
        write_hf(tmp_path, config, state | {NORM: torch.ones(64).to(dtype)})
        assert refusal(tmp_path).endswith(f"{NORM} holds {dtype}, expected a floating-point type")


def test_check_finite_finds_a_single_nan_or_infinity_in_any_tensor(tmp_path):
    config, state = made("biases", num_hidden_layers=1)
    write_hf(tmp_path, config, state)
    Llama.from_pretrained(tmp_path, check_finite=True)
    for i, (key, weight) in enumerate(state.items()):
        bad = weight.clone()
        bad.view(-1)[-1] = (torch.nan, torch.inf, -torch.inf)[i % 3]
        write_hf(tmp_path, config, state | {key: bad})
        Llama.from_pretrained(tmp_path)  # not asked, not looked
        assert f"model.safetensors: {key} holds NaN or infinity as torch.float32" in refusal(
            tmp_path, check_finite=True
        )


def test_check_finite_looks_after_the_conversion(tmp_path):
    config, state = made()
    write_hf(tmp_path, config, state | {NORM: torch.full((64,), 1e5)})
    Llama.from_pretrained(tmp_path, check_finite=True)
    assert f"{NORM} holds NaN or infinity as torch.float16" in refusal(tmp_path, dtype=torch.float16, check_finite=True)


def test_check_finite_finds_a_tensor_of_another_dtype(tmp_path):
    config, state = made(dtype=torch.bfloat16)
    write_hf(tmp_path, config, state | {NORM: state[NORM].float()})
    assert Llama.from_pretrained(tmp_path).model.norm.weight.dtype == torch.bfloat16
    assert f"{NORM} holds torch.float32, expected torch.bfloat16" in refusal(tmp_path, check_finite=True)


def test_a_missing_shard_is_named(two):
    (two / "model-00002-of-00002.safetensors").unlink()
    assert refusal(two).endswith("model-00002-of-00002.safetensors is missing")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("left", [0.999, 0.5, 0.01, 0.0])
def test_a_truncated_shard_is_named(kind, left, tmp_path):
    write_hf(tmp_path, *made(), kind, shards=2)
    shard = next(tmp_path.glob("*-00002-of-00002*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * left)])
    assert re.search(rf"{shard.name} cannot be read: ", refusal(tmp_path))


def test_an_index_that_puts_a_key_elsewhere_is_refused(two):
    change_index(two, lambda c: c["weight_map"].update({NORM: "model-00002-of-00002.safetensors"}))
    message = (
        "model-00001-of-00002.safetensors: model.norm.weight is there, but model.safetensors.index.json puts it in"
    )
    assert message in refusal(two)


def test_an_index_that_does_not_know_a_key_is_refused(two):
    change_index(two, lambda c: c["weight_map"].pop(NORM))
    assert f"model-00001-of-00002.safetensors: {NORM} is not in model.safetensors.index.json" in refusal(two)


def test_an_index_that_promises_a_key_is_refused(two):
    shard = two / "model-00001-of-00002.safetensors"
    weights = load_file(shard)
    del weights[NORM]
    save_file(weights, shard)
    expected = f"model.safetensors.index.json: {NORM} should be in model-00001-of-00002.safetensors, which does not"
    assert expected in refusal(two)


def test_a_key_that_neither_index_nor_shard_has_is_missing(two):
    test_an_index_that_promises_a_key_is_refused(two)
    change_index(two, lambda c: c["weight_map"].pop(NORM))
    assert refusal(two).endswith(f"model.safetensors.index.json: {NORM} is missing")


def test_a_misshapen_key_in_a_shard_is_named_with_the_shard(two):
    shard = two / "model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {NORM: torch.ones(63)}, shard)
    assert f"model-00001-of-00002.safetensors: {NORM} has shape (63,), expected (64,)" in refusal(two)


def test_a_key_in_two_shards_is_refused(two):
    shard = two / "model-00002-of-00002.safetensors"
    save_file(load_file(shard) | {NORM: torch.ones(64)}, shard)
    assert f"model-00002-of-00002.safetensors: {NORM} is there, but model.safetensors.index.json puts it" in refusal(
        two
    )


def test_a_key_with_and_without_its_prefix_is_refused(one):
    save_file(load_file(one / "model.safetensors") | {"norm.weight": torch.ones(64)}, one / "model.safetensors")
    assert re.search(r"model\.safetensors: (norm\.weight and model\.|model\.norm\.weight and )norm", refusal(one))


def test_a_key_that_the_index_says_twice_is_refused(two):
    index = two / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"weight_map": {', f'"weight_map": {{"{NORM}": "a.safetensors", '))
    assert f"model.safetensors.index.json cannot be read: '{NORM}' is there twice" in refusal(two)


@pytest.mark.parametrize(
    "path",
    ["../outside.safetensors", "/{outside}", "sub/../../outside.safetensors", "sub/inside.safetensors", "..", "", ".",
     "..\\outside.safetensors", "outside.safetensors\0", "outside.bin", "config.json", 7, None, ["a.safetensors"]],
)  # fmt: skip
def test_an_index_may_only_name_files_beside_it(path, two):
    outside = two.parent / "outside.safetensors"
    shutil.copy(two / "model-00002-of-00002.safetensors", outside)
    wanted = path.format(outside=outside) if isinstance(path, str) else path

    def escape(content):
        for key, file in content["weight_map"].items():
            if file == "model-00002-of-00002.safetensors":
                content["weight_map"][key] = wanted

    change_index(two, escape)
    assert re.search(r"index\.json: \S+ is in .*, expected the name of a \.safetensors file next to it", refusal(two))


@pytest.mark.parametrize("content", [{}, [], {"weight_map": None}, {"weight_map": []}, "weight_map", 3])
def test_an_index_without_a_map_is_refused(content, two):
    (two / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "model.safetensors.index.json: weight_map is missing" in refusal(two)


def test_an_empty_map_holds_nothing(two):
    (two / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "there are 0 tensors" in refusal(two)


class Payload:
    """Unpickled without care, it makes the directory named by PAYLOAD."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD"],)


@pytest.mark.parametrize("where", ["instead of the tensors", "beside them", "as a key", "an old pickle", "sharded"])
def test_a_payload_is_refused_and_does_not_run(where, tmp_path, monkeypatch):
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "payload"))
    config, state = made()
    directory = write_hf(tmp_path / "evil", config, state, "bin", shards=2 if where == "sharded" else 1)
    path = sorted(directory.glob("*.bin"))[-1]
    if where == "an old pickle":
        path.write_bytes(pickle.dumps(Payload()))
    else:
        evil = {"instead of the tensors": Payload(), "as a key": state | {(Payload(),): 1}}
        torch.save(evil.get(where, state | {"x": Payload()}), path)
        with zipfile.ZipFile(path) as archive:  # the payload is there and works
            data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        assert b"mkdir" in data
    message = refusal(directory)
    assert path.name in message
    assert where == "an old pickle" or "is refused: its pickle asks for posix.mkdir; nothing of it was run" in message
    assert not (tmp_path / "payload").exists()


def test_a_compressed_bin_is_refused_before_it_unpacks(tmp_path):
    write_hf(tmp_path, *made(), "bin")
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    assert re.search(r"pytorch_model\.bin is refused: \S+ is compressed", refusal(tmp_path))


@pytest.mark.parametrize(
    "content",
    [[torch.ones(2)], torch.ones(2), {"state_dict": {"a": torch.ones(2)}}, {"a": 3}, {3: torch.ones(2)},
     {"a": torch.ones(2).to_sparse()}, {"a": torch.ones(2, device="meta")}, {"a": torch.ones(1).expand(10**12)}],
    ids=repr,
)  # fmt: skip
def test_a_bin_of_anything_but_tensors_by_name_is_refused(content, tmp_path):
    write_hf(tmp_path, *made(), "bin")
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert re.search(r"pytorch_model\.bin(: (state_dict|a|3) (is|has)| holds (list|Tensor))", refusal(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("num_hidden_layers", 10**18), ("hidden_size", 2**60), ("vocab_size", 2**62),
     ("intermediate_size", 2**62), ("num_attention_heads", 2**40), ("vocab_size", 10**30), ("vocab_size", -1),
     ("hidden_size", 64.0), ("hidden_size", "64"), ("num_hidden_layers", True), ("num_hidden_layers", [2]),
     ("hidden_act", {}), ("rope_parameters", []), ("rope_parameters", {"rope_type": [1]}), ("eos_token_id", 10**30),
     ("rms_norm_eps", "1e-5"), ("rms_norm_eps", 10**400), ("head_dim", 2**62), ("dtype", "int8"), ("dtype", 3),
     ("max_position_embeddings", 10**400)],
)  # fmt: skip
def test_a_size_beyond_measure_or_of_another_type_is_refused_at_once(field, value, one):
    config = json.loads((one / "config.json").read_text())
    if field == "hidden_size" and isinstance(value, int):
        config["num_attention_heads"] = 8
    (one / "config.json").write_text(json.dumps(config | {field: value}))
    refusal(one)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("generation_config.json", b"{"),
        ("generation_config.json", b"[]"),
        ("generation_config.json", b'{"eos_token_id": "2"}'),
        ("generation_config.json", b'{"eos_token_id": [2, null]}'),
        ("generation_config.json", b'{"eos_token_id": 1e400}'),
        ("generation_config.json", b'{"eos_token_id": ' + b"9" * 5000 + b"}"),
        ("generation_config.json", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}"),
        ("config.json", b'{"vocab_size": 101, "vocab_size": 101}'),
        ("config.json", b'{"model_type": ' + b"[" * 900 + b"]" * 900 + b"}"),
        ("config.json", b'{"model_type": "\\ud800 \\u001b[31m\\n' + b"x" * 100_000 + b'"}'),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_json_is_named(file, content, one):
    (one / file).write_bytes(content)
    message = refusal(one)
    assert file in message
    assert message.isprintable()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_pipe_or_a_directory_is_not_waited_for(name, one):
    (one / name).unlink(missing_ok=True)
    os.mkfifo(one / name)
    assert f"{name} cannot be read: not a regular file" in refusal(one)
    (one / name).unlink()
    (one / name).mkdir()
    assert f"{name} cannot be read: not a regular file" in refusal(one)


def test_a_safetensors_header_that_claims_the_world_is_refused(one):
    path = one / "model.safetensors"
    content = path.read_bytes()
    for length in (2**63, 2**64 - 1, 10**9, len(content), 0):
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        assert "model.safetensors cannot be read: " in refusal(one)
    header = b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    assert "model.safetensors cannot be read: " in refusal(one)


def test_a_json_file_of_gigabytes_is_not_read(one):
    with (one / "config.json").open("wb") as file:
        file.truncate(3 * 2**30)
    assert "config.json cannot be read: it has 3221225472 bytes, expected at most" in refusal(one)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    assert refusal(tmp_path / "nowhere").endswith("nowhere is not a directory: there is nothing of that name")
    write_hf(tmp_path, *made())
    (tmp_path / "model.safetensors").unlink()
    assert f"{tmp_path}/model.safetensors is missing, and so are" in refusal(tmp_path)
