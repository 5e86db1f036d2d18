"""Directories as people have them: read, or told by what is there and what to do."""

import json
import logging
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_scratch import Llama
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.command_line import this_python
from llama_scratch.convert import ConvertConfig, convert
from llama_scratch.generate.command import GenerateConfig, Session
from llama_scratch.tokenizer import Tokenizer, TokenizerError
from tests.ours.checkpoint_writers import made, write_gguf, write_hf, write_meta

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258da\n"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


def refusal(directory, **how) -> str:
    """The message, of one line."""
    with pytest.raises(CheckpointError) as caught:
        Llama.from_pretrained(directory, **how)
    return str(caught.value)


def is_whole(directory, state) -> bool:
    mine = Llama.from_pretrained(directory).state_dict()
    return all(torch.equal(mine[key], weight) for key, weight in state.items())


def config_only(directory, config):
    """The directory with its config.json, for the weights to be put beside."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


WRAPPERS = {
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "DistributedDataParallel": lambda key: f"module.{key}",
    "both": lambda key: f"module._orig_mod.{key}",
    "peft": lambda key: f"base_model.model.{key}",
    "a part of another module": lambda key: f"model.{key}",
    "fsdp and compile inside": lambda key: key.replace("layers.1.", "layers.1._fsdp_wrapped_module._orig_mod."),
    "checkpointed layers, compiled": lambda key: (
        "_orig_mod." + key.replace("layers.", "layers._checkpoint_wrapped_module.")
    ),
}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("variant", ["tied", "biases"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_prefix_that_all_keys_have_is_left_out_and_said(wrapper, variant, shards, kind, tmp_path, caplog):
    config, state = made(variant)
    write_hf(tmp_path, config, {WRAPPERS[wrapper](key): weight for key, weight in state.items()}, kind, shards)
    with caplog.at_level(logging.WARNING):
        assert is_whole(tmp_path, state)
    name = WRAPPERS[wrapper](next(key for key in state if WRAPPERS[wrapper](key) != key))
    assert "keys are read without the prefix of a wrapper" in caplog.text
    assert wrapper.startswith(("fsdp", "checkpointed")) or name.split("model.")[0] in caplog.text


def test_a_wrapped_decoder_without_its_head_is_read(tmp_path):
    config, state = made("tied")
    write_hf(tmp_path, config, {"_orig_mod." + key.removeprefix("model."): weight for key, weight in state.items()})
    assert is_whole(tmp_path, state)


def test_plain_keys_are_read_without_a_word(tmp_path, caplog):
    config, state = made("biases")
    write_hf(tmp_path, config, state)
    with caplog.at_level(logging.WARNING):
        assert is_whole(tmp_path, state)
    assert caplog.text == ""


@pytest.mark.parametrize("prefix", ["policy.", "student.net."])
def test_a_prefix_of_some_keys_is_named_with_pairs_and_can_be_stripped(prefix, tmp_path):
    """Something else is in the file, which must be removed by whoever knows what it is."""
    config, state = made("untied")
    stored = {prefix + key: weight for key, weight in state.items()}
    source = write_hf(tmp_path / "source", config, stored | {"value_head.weight": torch.ones(3)})
    message = refusal(source)
    pair = rf"keys have the prefix {prefix!r}: {prefix}(\S+) is there, \1 is missing; "
    assert re.search(pair, message)
    assert f"{len(state) - 2} more such pairs; value_head.weight is unexpected" in message
    command = f"{this_python()} -m llama_scratch.convert --strip-prefix {prefix} {source} NEW_DIRECTORY"
    assert message.endswith(f"strip it: {command}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: value_head\.weight is unexpected"):
        convert(ConvertConfig(source, tmp_path / "never", strip_prefix=prefix))
    write_hf(source, config, {key if key == NORM else prefix + key: weight for key, weight in state.items()})
    assert f"keys have the prefix {prefix!r}" in refusal(source)
    convert(ConvertConfig(source, tmp_path / "converted", strip_prefix=prefix))
    assert is_whole(tmp_path / "converted", state)


def test_a_key_with_and_without_its_prefix_is_not_guessed_about(tmp_path):
    config, state = made("untied")
    write_hf(tmp_path, config, state | {f"_orig_mod.{NORM}": torch.ones(64)})
    assert f"_orig_mod.{NORM} is unexpected" in refusal(tmp_path)


def test_of_another_model_missing_and_unexpected_names_are_shown(tmp_path):
    config, state = made("untied")
    write_hf(tmp_path, config, {f"transformer.h.{i}.attn.c_attn.weight": torch.ones(3) for i in range(len(state))})
    message = refusal(tmp_path)
    assert f"{EMBEDDING} is missing" in message
    assert "transformer.h.0.attn.c_attn.weight is unexpected" in message


def test_a_lora_that_is_not_merged_is_told_what_to_do(tmp_path):
    config, state = made("untied")
    key = "model.layers.0.self_attn.q_proj"
    lora = {f"base_model.model.{key}.lora_A.default.weight": torch.ones(2, 64)}
    wrapped = {f"base_model.model.{name}": weight for name, weight in state.items()}
    write_hf(tmp_path, config, wrapped | lora)
    assert re.search(r"lora_A\.default\.weight belongs to a LoRA; merge it .*merge_and_unload\(\)", refusal(tmp_path))


ONE_FILE = ["pytorch_model.pt", "model.pt", "model.pth", "model.bin", "weights.ckpt", "last.ckpt", "consolidated.pth",
            "consolidated.safetensors", "weights.safetensors", "hf_model_0001_0.pt"]  # fmt: skip
NUMBERED = {
    "safetensors without an index": "model-{:05}-of-00003.safetensors",
    "bin without an index": "pytorch_model-{:05}-of-00003.bin",
    "torchtune, newer": "ft-model-{:05}-of-00003.safetensors",
    "torchtune": "hf_model_{:04}_1.pt",
}
BESIDE = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "recipe_state.pt"]


def write(state, path) -> None:
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)


@pytest.mark.parametrize("name", ONE_FILE)
def test_one_file_of_weights_under_another_name_is_read_and_said(name, tmp_path, caplog):
    config, state = made("untied")
    config_only(tmp_path, config)
    write(state, tmp_path / name)
    for other in BESIDE:
        (tmp_path / other).write_bytes(b"not weights")
    with caplog.at_level(logging.WARNING):
        assert is_whole(tmp_path, state)
    assert f"the weights are read from {name}" in caplog.text


@pytest.mark.parametrize("kind", NUMBERED)
def test_numbered_files_without_an_index_are_read_if_all_are_there(kind, tmp_path, caplog):
    config, state = made("untied")
    config_only(tmp_path, config)
    for number in (1, 2, 3):
        part = {key: state[key] for key in list(state)[number - 1 :: 3]}
        write(part, tmp_path / NUMBERED[kind].format(number))
    with caplog.at_level(logging.WARNING):
        assert is_whole(tmp_path, state)
    assert f"the weights are read from {NUMBERED[kind].format(1)}, {NUMBERED[kind].format(2)}" in caplog.text
    for absent in (2, 1):
        (tmp_path / NUMBERED[kind].format(absent)).rename(tmp_path / "away")
        assert f"{NUMBERED[kind].format(absent)} is missing" in refusal(tmp_path)
        (tmp_path / "away").rename(tmp_path / NUMBERED[kind].format(absent))


@pytest.mark.parametrize(
    "names",
    [("epoch1.ckpt", "epoch2.ckpt"), ("model.pt", "ema.pt"), ("hf_model_0001_0.pt", "hf_model_0001_1.pt"),
     ("a.safetensors", "a.bin")],
)  # fmt: skip
def test_several_that_could_be_meant_are_listed(names, tmp_path):
    config, state = made("untied")
    config_only(tmp_path, config)
    for name in names:
        write(state, tmp_path / name)
    message = refusal(tmp_path)
    assert f"there are {', '.join(sorted(names))}: rename the one that is meant to model.safetensors" in message


def test_a_usual_name_comes_before_all_others(tmp_path, caplog):
    config, state = made("untied")
    write_hf(tmp_path, config, state)
    write({key: torch.zeros_like(weight) for key, weight in state.items()}, tmp_path / "model.pt")
    assert is_whole(tmp_path, state)
    assert caplog.text == ""


def test_tensors_inside_another_object_are_told_how_to_get_out(tmp_path):
    config, state = made("untied")
    config_only(tmp_path, config)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    assert "torch.save(torch.load('last.ckpt')['state_dict'], 'pytorch_model.bin')" in refusal(tmp_path)
    torch.save(torch.load(tmp_path / "last.ckpt")["state_dict"], tmp_path / "pytorch_model.bin")
    assert is_whole(tmp_path, state)


def lora(directory):
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2)}, directory / "adapter_model.safetensors")
    return directory


def some_file(path, content=b"x"):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


SITUATIONS = {
    "nothing": (lambda p: p / "nowhere", r"nowhere is not a directory: there is nothing of that name"),
    "empty": (lambda p: p, r"config\.json is missing: .* is empty, expected config\.json and weights"),
    "a file": (
        lambda p: some_file(p / "d" / "model.safetensors"),
        r"model\.safetensors is a file, not a directory, expected the directory that holds it: .*/d$",
    ),
    "a gguf file": (
        lambda p: write_gguf(p / "m.gguf", *made()),
        r"m\.gguf is a file, not a directory; convert it first: PYTHON -m llama_scratch\.convert \S+/m\.gguf NEW_DIREC",
    ),
    "a folder with a gguf": (
        lambda p: write_gguf(p / "d" / "m.gguf", *made()).parent,
        r"/d holds m\.gguf; convert it first: PYTHON -m llama_scratch\.convert \S+/d/m\.gguf NEW_DIRECTORY",
    ),
    "a gguf and a config": (
        lambda p: config_only(write_gguf(p / "d" / "m.gguf", *made()).parent, made()[0]),
        r"model\.safetensors is missing, .*; .*/d holds m\.gguf; convert it first: PYTHON -m llama_scratch\.convert",
    ),
    "Meta": (
        lambda p: write_meta(p / "d", *made()),
        r"/d holds params\.json, Meta's format; convert it first: PYTHON -m llama_scratch\.convert \S+/d NEW_DIRECTORY",
    ),
    "an adapter": (
        lambda p: lora(p / "d"),
        r"holds an adapter \(LoRA\) of meta-llama/Llama-2-7b-hf, not a model; merge the two first, with peft: .*merge_",
    ),
    "an adapter and a config": (
        lambda p: config_only(lora(p / "d"), made()[0]),
        r"model\.safetensors is missing, .* holds an adapter \(LoRA\) of meta-llama/Llama-2-7b-hf, not a model",
    ),
    "a folder too high": (
        lambda p: write_hf(p / "snapshots" / "abc", *made()).parent,
        r"config\.json is missing: .* a checkpoint is in \S+/snapshots/abc$",
    ),
    "config alone": (lambda p: config_only(p, made()[0]), r"holds no weights but config\.json"),
    "notes": (lambda p: some_file(p / "d" / "notes.txt").parent, r"config\.json is missing: .*/d holds notes\.txt"),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_there_is_told_with_what_to_do(situation, tmp_path):
    make, message = SITUATIONS[situation]
    message = message.replace("PYTHON", re.escape(this_python()))
    directory = make(tmp_path)
    assert re.search(message, refusal(directory))
    if "weights" not in message and "model" not in message.split(" is missing")[0]:
        with pytest.raises(CheckpointError, match=message):
            Session(GenerateConfig(directory, prompt="x"))


def test_a_name_of_the_hub_is_told_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("HuggingFaceTB/SmolLM2-135M")
    assert "is not a directory here; if it is a name of the Hugging Face hub: " in message
    assert "hf download HuggingFaceTB/SmolLM2-135M --local-dir SmolLM2-135M" in message
    with pytest.raises(CheckpointError, match="hf download HuggingFaceTB/SmolLM2-135M"):
        convert(ConvertConfig(tmp_path.__class__("HuggingFaceTB/SmolLM2-135M"), tmp_path / "never"))
    with pytest.raises(CheckpointError, match="hf download"):
        Session(GenerateConfig(tmp_path.__class__("HuggingFaceTB/SmolLM2-135M"), prompt="x"))
    (tmp_path / "HuggingFaceTB").mkdir()
    assert "there is nothing of that name" in refusal("HuggingFaceTB/SmolLM2-135M")  # a local path, mistyped


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00002-of-00002.safetensors",
                                  "model.safetensors.index.json", "config.json", "weights.pt"])  # fmt: skip
def test_a_git_lfs_pointer_is_named(name, tmp_path):
    write_hf(tmp_path, *made(), shards=2 if "-of-" in name or "index" in name else 1)
    if "-of-" not in name and "index" not in name and name != "config.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(POINTER)
    assert f"{name} is a git-lfs pointer, not the file itself: run git lfs pull in {tmp_path}" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_git_lfs_pointer_for_a_tokenizer_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(TokenizerError, match=rf"{name} is a git-lfs pointer, .*: run git lfs pull in"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["m.gguf", "m.bin"])
def test_a_git_lfs_pointer_is_not_converted(name, tmp_path):
    source = some_file(tmp_path / name, POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer"):
        convert(ConvertConfig(source, tmp_path / "never"))
    assert not (tmp_path / "never").exists()


def test_an_adapter_beside_a_model_is_said_not_to_be_applied(tmp_path, caplog):
    config, state = made()
    write_hf(lora(tmp_path / "d"), config, state)
    assert is_whole(tmp_path / "d", state)
    assert "adapter_config.json is not applied" in caplog.text


def test_what_says_nothing_about_the_mathematics_is_reported_once(tmp_path, caplog):
    config, state = made()
    write_hf(tmp_path, config | {"transformers.js_config": {"dtype": "q4"}, "_flash_attn_2_enabled": True}, state)
    Llama.from_pretrained(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["config.json: not used, since they say nothing about the mathematics: "
                    "_flash_attn_2_enabled, transformers.js_config"]  # fmt: skip


def test_keys_to_ignore_reach_every_command_that_loads(tmp_path):
    config, state = made()
    source = write_hf(tmp_path / "source", config | {"sliding_window": 4096}, state)
    assert refusal(source).endswith("as transformers does: --ignore sliding_window")
    Llama.from_pretrained(source, ignore=("sliding_window",))
    convert(ConvertConfig(source, tmp_path / "converted", ignore=("sliding_window",)))
    assert load_file(tmp_path / "converted" / "model.safetensors").keys() == state.keys()
    with pytest.raises(CheckpointError, match="has neither tokenizer"):  # past its configuration
        Session(GenerateConfig(source, prompt="x", ignore=("sliding_window",)))
