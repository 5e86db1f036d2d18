"""`llama-reference verify A --against B`: every format, right conversions and wrong ones."""

import json

import numpy as np
import pytest
import torch

from llama_reference.__main__ import main
from llama_reference.mistakes.conversions import CONVERSIONS
from llama_reference.standard.cases import ROPES
from tests.ours.checkpoint_writers import made, write_gguf, write_hf, write_llama2c, write_meta
from tests.ours.planted_conversions import PLANTED
from tests.profiles import among

# F is a multiple of 32, as quantisation needs; V of 2, as two shards do
# heads are long enough that k, permuted with the heads of q, is not as it was
SHAPE = {
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "intermediate_size": 192,
    "vocab_size": 96,
    "rope_parameters": ROPES["theta_500000"],
}
FORMATS = ("float32", "bfloat16", "Meta", "llama2.c", "F16", "Q8_0", "Q4_0")
# Plants that a format cannot hold, or that are no mistake there.
FIELDS_OF_RUN_C = ("theta", "eps")  # run.c has theta and eps built in
ROUNDINGS = ("through bfloat16", "through float16")
IMPOSSIBLE = {
    "bfloat16": ROUNDINGS,
    "F16": ROUNDINGS,
    "Q8_0": ROUNDINGS,
    "Q4_0": ROUNDINGS,
    "Meta": ("no head",),  # a tied head is stored twice
    "llama2.c": (*FIELDS_OF_RUN_C, "key heads"),  # with other heads the file is too short for its header
}
CASES = [(plant, form) for form in FORMATS for plant in PLANTED if plant not in IMPOSSIBLE.get(form, ())]
QUICK = ("k by query heads, float32", "key heads in turn, Meta", "q and k as they were, llama2.c", "theta, F16",
         "one layer twice, Q8_0", "a layer not loaded, Q4_0", "1 + w, bfloat16")  # fmt: skip


def written(directory, form, config, state):
    """The checkpoint in one of the formats."""
    directory.mkdir(exist_ok=True)
    if form in ("float32", "bfloat16"):
        return write_hf(directory / form, config, {k: w.to(getattr(torch, form)) for k, w in state.items()})
    if form == "Meta":
        rope = {"rope_theta": config["rope_parameters"]["rope_theta"]}
        return write_meta(directory / form, config, state, parts=2, multiple_of=64, **rope)
    if form == "llama2.c":
        return write_llama2c(directory / "model.bin", config, state)
    return write_gguf(directory / f"{form}.gguf", config, state, form)


def model(form):
    """The right one: theta and eps are run.c's where the format has none."""
    theirs = {"rope_parameters": ROPES["default"]} if form == "llama2.c" else {}
    return made("GQA", **SHAPE | theirs)


def against(first, second, tmp_path):
    status = main(["verify", str(first), "--against", str(second), "--json", str(tmp_path / "found.json")])
    return status, json.loads((tmp_path / "found.json").read_text())


@pytest.mark.parametrize("form", FORMATS)
def test_a_right_conversion_is_the_same_model(form, tmp_path, capsys):
    config, state = model(form)
    first = written(tmp_path / "first", "float32", config, state)
    second = written(tmp_path / "second", form, config, state)
    assert against(first, second, tmp_path)[0] == 0
    said = capsys.readouterr().out
    assert "compared: 39 tensors" in said
    assert said.endswith("verdict: the same model: every tensor of the second is the first's, up to how it is stored\n")


@pytest.mark.parametrize("form", FORMATS)
def test_from_any_format_to_transformers(form, tmp_path):
    """What is quantised is compared by its own rounding, whichever of the two it is."""
    config, state = model(form)
    first = written(tmp_path / "first", form, config, state)
    second = written(tmp_path / "second", "float32", config, state)
    assert against(first, second, tmp_path)[1]["differences"] == []
    wrong = PLANTED["k by query heads"][1](config, state, False)
    second = written(tmp_path / "wrong", "float32", *wrong)
    assert [*against(first, second, tmp_path)[1]["known"]] == ["k_permuted_with_query_heads"]


@pytest.mark.parametrize(("plant", "form"), among(CASES, QUICK, ", ".join))
def test_a_wrong_conversion_is_named(plant, form, tmp_path, capsys):
    name, make = PLANTED[plant]
    config, state = model(form)
    first = written(tmp_path / "first", "float32", config, state)
    is_paired = form not in ("float32", "bfloat16")
    second = written(tmp_path / "second", form, *make(config, state, is_paired))
    status, found = against(first, second, tmp_path)
    assert status == 1
    assert [*found["known"]][:1] == [name], capsys.readouterr().out
    assert {difference["known"][:1][0] for difference in found["differences"] if difference["known"]} == {name}
    assert f"known mistake: `{name}`" in capsys.readouterr().out


def test_there_are_many():
    assert len(PLANTED) >= 40
    planted = {name for name, _ in PLANTED.values()}
    assert {one.name for one in CONVERSIONS} - planted == {
        "qk_biases_not_permuted",
        "layers_sorted_as_text",
        "biases_dropped",
        "rope_scaling_lost",
    }, "tested below"


def test_biases(tmp_path):
    """Dropped, or left as they were while the weights are permuted."""
    config, state = made("biases", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    dropped = {key: torch.zeros_like(w) if key.endswith(".bias") else w for key, w in state.items()}
    found = against(first, write_hf(tmp_path / "dropped", config, dropped), tmp_path)[1]
    assert [*found["known"]] == ["biases_dropped"]
    _, moved = PLANTED["q and k as they were"][1](config, state, False)
    biases = {key: moved[key] if key.endswith(".bias") else w for key, w in state.items()}
    found = against(first, write_hf(tmp_path / "biases", config, biases), tmp_path)[1]
    assert [*found["known"]] == ["qk_biases_not_permuted"]


def test_layers_sorted_as_text(tmp_path):
    config, state = made("GQA", **SHAPE | {"num_hidden_layers": 12})
    first = write_hf(tmp_path / "first", config, state)
    order = sorted(map(str, range(12)))
    names = {key: ".".join([*key.split(".")[:2], order[int(key.split(".")[2])], *key.split(".")[3:]])
             for key in state if ".layers." in key}  # fmt: skip
    planted = {key: state[names.get(key, key)].clone() for key in state}
    found = against(first, write_hf(tmp_path / "second", config, planted), tmp_path)[1]
    assert [*found["known"]] == ["layers_sorted_as_text"]


LLAMA_3_1 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0} | {
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def factors(writer):
    """rope_freqs.weight of Llama 3.1, by the formula of Meta's model.py, in float32 as llama.cpp's converter has it."""
    inverse = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    wavelength = 2 * np.pi / inverse
    smooth = np.clip((8192 / wavelength - 1) / (4 - 1), 0, 1)
    writer.add_tensor("rope_freqs.weight", (1 / (smooth + (1 - smooth) / 8)).astype(np.float32))


def test_rope_scaling_lost_or_kept_as_factors(tmp_path):
    config, state = made("GQA", **SHAPE | {"rope_parameters": LLAMA_3_1})
    first = write_hf(tmp_path / "first", config, state)
    kept = write_gguf(tmp_path / "kept.gguf", config, state, "Q8_0", factors)
    assert against(first, kept, tmp_path)[0] == 0
    lost = write_gguf(tmp_path / "lost.gguf", config, state, "Q8_0")
    found = against(first, lost, tmp_path)[1]
    assert [*found["known"]] == ["rope_scaling_lost"]
    assert len(found["differences"]) == 1


def test_a_tied_head_that_is_stored_is_held_against_the_embedding(tmp_path):
    config, state = made("tied", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    head = state["model.embed_tokens.weight"]
    status, found = against(first, write_hf(tmp_path / "a", config, state | {"lm_head.weight": head.clone()}), tmp_path)
    assert status == 0
    assert "the first is tied" in found["remarks"][0]
    random = torch.randn(head.shape, generator=torch.Generator().manual_seed(5))
    found = against(first, write_hf(tmp_path / "b", config, state | {"lm_head.weight": random}), tmp_path)[1]
    assert found["known"] == {"left_at_initialisation": ["lm_head.weight"]}


def test_key_heads_that_are_repeated_rightly_are_a_remark(tmp_path):
    config, state = made("GQA", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)

    def repeated(w):
        return w.unflatten(0, (2, 16)).repeat_interleave(2, 0).flatten(0, 1)

    other = {key: repeated(w) if ".k_proj." in key or ".v_proj." in key else w for key, w in state.items()}
    second = write_hf(tmp_path / "second", config | {"num_key_value_heads": 4}, other)
    status, found = against(first, second, tmp_path)
    assert status == 0
    assert "each key and value head 2 times" in found["remarks"][0]


def test_what_no_mistake_explains_is_told_by_its_numbers(tmp_path, capsys):
    config, state = made("GQA", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    other = {key: w.clone() for key, w in state.items()}
    other["model.layers.2.mlp.up_proj.weight"][3, 5] += 0.5
    other["model.layers.1.mlp.up_proj.weight"] *= 1.5
    other["model.layers.3.input_layernorm.weight"][0] = torch.nan
    del other["model.layers.0.mlp.down_proj.weight"]
    other["model.layers.0.extra.weight"] = torch.ones(3)
    assert against(first, write_hf(tmp_path / "second", config, other), tmp_path)[0] == 1
    said = capsys.readouterr().out
    for line in (
        "model.layers.2.mlp.up_proj.weight: 1 of 12,288 numbers differ, all in rows 3 to 3; correlation 0.9993",
        "model.layers.1.mlp.up_proj.weight: 1.5 times the first's",
        "model.layers.3.input_layernorm.weight: 1 numbers are not finite",
        "model.layers.0.mlp.down_proj.weight: missing",
        "model.layers.0.extra.weight: is not in the first",
        "verdict: NOT the same model: 5 tensors differ",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes: neither GGUF nor a .bin of llama2.c"),
        (b"GGUF" + bytes(40), "cannot be read"),
        (b"x" * 64, "too few for the sizes in its header"),
        (None, "no such file or directory"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(content, told, tmp_path, capsys):
    config, state = made("GQA", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    second = tmp_path / "model.bin"
    if content is not None:
        second.write_bytes(content)
    assert main(["verify", str(first), "--against", str(second)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {second}: ")
    assert told in said
    assert said.count("\n") == 1


def test_a_head_that_the_fields_ignore_or_lack(tmp_path):
    config, state = made("GQA", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    found = against(first, write_hf(tmp_path / "ignored", config | {"tie_word_embeddings": True}, state), tmp_path)[1]
    assert found["known"] == {"embedding_as_head": ["tie_word_embeddings"]}
    config, state = made("tied", **SHAPE)
    first = write_hf(tmp_path / "tied", config, state)
    found = against(first, write_hf(tmp_path / "lacking", config | {"tie_word_embeddings": False}, state), tmp_path)[1]
    assert found["known"] == {"left_at_initialisation": ["tie_word_embeddings"]}


def test_what_a_format_does_not_say_is_not_compared_and_told(tmp_path):
    config, state = made("GQA", **SHAPE | {"rope_parameters": LLAMA_3_1})
    first = write_hf(tmp_path / "first", config, state)
    second = write_meta(tmp_path / "meta", config, state, multiple_of=64, use_scaled_rope=True, rope_theta=500000.0)
    status, found = against(first, second, tmp_path)
    assert status == 0
    assert "rotary frequencies are not compared: params.json" in found["remarks"][0]


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "longrope", "llama3"])
def test_the_scaling_of_every_type_is_compared(kind, tmp_path):
    """That of dynamic and of longrope's second half shows beyond the context only."""
    rope = ROPES[kind]
    if kind == "longrope":  # factors for half of a head's channels
        rope = rope | {name: rope[name][:8] for name in ("short_factor", "long_factor")}
    config, state = made("GQA", **SHAPE | {"rope_parameters": rope})
    first = write_hf(tmp_path / "first", config, state)
    assert against(first, write_hf(tmp_path / "same", config, state), tmp_path)[0] == 0
    theirs = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    if kind == "longrope":
        theirs = rope | {"long_factor": rope["short_factor"]}
    found = against(first, write_hf(tmp_path / "other", config | {"rope_parameters": theirs}, state), tmp_path)[1]
    assert [difference["name"] for difference in found["differences"]] == ["rope_parameters"]
    assert found["known"] == ({} if kind == "longrope" else {"rope_scaling_lost": ["rope_parameters"]})


def test_a_field_that_no_model_can_have_is_one_line(tmp_path, capsys):
    config, state = made("GQA", **SHAPE)
    first = write_hf(tmp_path / "first", config, state)
    second = write_hf(tmp_path / "second", config | {"num_key_value_heads": 0}, state)
    assert main(["verify", str(first), "--against", str(second)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {second}: num_key_value_heads is 0, expected a positive integer")
