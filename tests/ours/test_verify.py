"""`llama-reference verify`: a trained checkpoint, through this project's adapter and through wrong ones."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llama_reference import mistakes
from llama_reference.__main__ import main
from llama_reference.adapter_loader import load
from llama_reference.verify import NAMED
from tests.ours.planted_conversions import PLANTED
from tests.profiles import among

ROOT = Path(__file__).parents[2]
OURS = ROOT / "tests" / "adapters" / "ours.py"
LAYER = 2

WRONG = f"""
from pathlib import Path
import torch
from llama_reference.adapter_loader import load
ours = load(Path({str(OURS)!r}))
globals().update({{name: value for name, value in vars(ours).items() if not name.startswith("_")}})

def build(config, state, dtype):
    handle = ours.build(config, state, dtype)
    with torch.no_grad():
        handle.model.layers[{LAYER}].mlp.up_proj.weight[3, 5] += 0.5
    return handle
"""


@pytest.fixture(scope="module")
def stories(shared):
    return shared / "stories260K"


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    return path


@pytest.fixture
def copy(stories, tmp_path):
    """The checkpoint in a folder that may be written to, without its tokenizer."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(stories / name, folder / name)
    return folder


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r" +\d", line)]


@pytest.mark.parametrize("dtype", NAMED)
def test_this_project_agrees_with_transformers(stories, dtype, capsys):
    assert main(["verify", str(stories), str(OURS), "--dtype", dtype]) == 0
    text = capsys.readouterr().out
    assert [row[:7] for row in rows(text)] == [[str(layer), *["bitwise"] * 6] for layer in range(5)]
    for line in (
        "model.norm: bitwise",
        "logits: bitwise",
        "culprits: nothing",
        "first difference in one pass: none",
        f"dtype: {dtype}",
    ):
        assert line in text.splitlines()
    asked = 16 * 5 + 5  # and the first layer again, in float32
    assert f"agree (its bits are transformers'): {asked + (16 + 5) * (dtype != 'float32')} bitwise" in text
    assert "through the checkpoint's tokenizer" in text


def test_one_number_changed_in_handling_names_layer_and_component(stories, wrong, capsys):
    assert main(["verify", str(stories), str(wrong)]) == 1
    text = capsys.readouterr().out
    assert re.findall(r"^culprits: (.*?):", text, re.MULTILINE) == [f"swiglu of layer {LAYER}"]
    assert re.findall(r"^first difference in one pass: (\S+), (\S+),", text, re.MULTILINE) == [
        ("swiglu", f"model.layers.{LAYER}.mlp")
    ]
    for layer, *cells in rows(text):
        assert ("WRONG" in cells) == (int(layer) == LAYER)
    assert "NOT all answers agree" in text


REORDERED = """
from llama_reference.implementation import Implementation
from llama_reference.standard.correct_variants import REORDERINGS
one, _ = REORDERINGS["sdpa, math"]
offered = (name for name in dir(Implementation) if not name.startswith("_") and hasattr(one, name))
globals().update({name: getattr(one, name) for name in offered})
"""


def test_what_is_right_and_rounds_otherwise_is_certified(stories, wrong, tmp_path, capsys):
    """By how many times transformers' own error, and whether another order gives as much."""
    wrong.write_text(REORDERED)
    assert main(["verify", str(stories), str(wrong), "--json", str(tmp_path / "found.json")]) == 0
    text = capsys.readouterr().out
    assert "verdict: all answers agree (rounded otherwise)" in text
    assert re.search(r"^likeliest next tokens: the same at 82 of 82 positions$", text, re.MULTILINE)
    found = {one["name"]: one for one in json.loads((tmp_path / "found.json").read_text())["roundings"]}
    assert found.keys() == {"attention", "block", "kv_cache", "llama"}
    for name, one in found.items():
        assert f"rounding: {name}: {one['error'] / one['oracle_error']:.2g} times transformers' own error" in text
        assert 1 <= one["as_far"] <= one["programs"], "this program is one of them"


MISTAKEN = """
from llama_reference import mistakes
from llama_reference.implementation import Implementation
[one] = [mistake for mistake in mistakes.of({component!r}) if mistake.name == {name!r}]
offered = (name for name in dir(Implementation) if not name.startswith("_") and hasattr(one.implementation, name))
globals().update({{name: getattr(one.implementation, name) for name in offered}})
"""
LLAMA_3_2 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0} | {
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("rotary", "scaling_ignored"),
        ("rotary", "theta_fixed_at_10000"),
        ("rotary", "positions_in_low_precision"),
        ("rms_norm", "eps_missing"),
    ],
)
def test_what_bfloat16_hides_at_the_first_positions_is_found_and_named(copy, wrong, component, name, capsys):
    config = json.loads((copy / "config.json").read_text())
    config |= {"rope_parameters": LLAMA_3_2, "max_position_embeddings": 131072, "dtype": "bfloat16"}
    (copy / "config.json").write_text(json.dumps(config))
    wrong.write_text(MISTAKEN.format(component=component, name=name))
    assert main(["verify", str(copy), str(wrong), "--dtype", "bfloat16"]) == 1
    text = capsys.readouterr().out
    assert {blamed.split()[0] for blamed in re.findall(r"^culprits: (.*?):", text, re.MULTILINE)} == {component}
    assert f"known mistake: {component} looks like `{name}`" in text


CONVERTED = """
from pathlib import Path
from llama_reference.adapter_loader import load
from tests.ours.planted_conversions import PLANTED
ours = load(Path({ours!r}))
globals().update({{name: value for name, value in vars(ours).items() if not name.startswith("_")}})

def build(config, state, dtype):
    return ours.build(*PLANTED[{plant!r}][1](config, state, False), dtype)
"""
# What a run of this checkpoint does not show by the name of a conversion.
NOT_IN_A_RUN = {
    "no head": "the checkpoint is tied",
    "a random head": "the checkpoint is tied",
    "the head twice": "the checkpoint is tied",
    "theta": "it is 10,000 in the checkpoint",
    "eps": "a component's own mistake",
    "key heads": "the tensors do not fit",
    "rows that pad": "the tensors do not fit",
    "key heads in turn": "the tensors do not fit the fields",
    "a layer not loaded": "random numbers are no known mistake's",
}
# The component's own mistake that gives the same answers.
OWN = {
    "q and k as they were": "permutation_forgotten",
    "q and k permuted once more": "permutation_forgotten",
    "k as it was": "k_permutation_forgotten",
    "q as it was": "q_permutation_forgotten",
    "k by query heads": "k_permuted_as_q",
    "k is v": "keys_and_values_swapped",
    "1 + w": "one_plus_gain",
    "norms of ones": "gain_ignored",
    "gate is up": "gate_and_up_swapped",
    "scaled twice": "scale_from_hidden_size",  # in this checkpoint √D is H
}
IN_A_RUN = [plant for plant in PLANTED if plant not in NOT_IN_A_RUN]


@pytest.mark.parametrize("plant", among(IN_A_RUN, ("k by query heads", "one layer twice")))
def test_a_mistake_of_conversion_in_an_adapter_is_named(copy, wrong, plant, capsys):
    wrong.write_text(CONVERTED.format(ours=str(OURS), plant=plant))
    assert main(["verify", str(copy), str(wrong)]) == 1
    text = capsys.readouterr().out
    names = re.findall(r"^known mistake: \S+ looks like `(\w+)`", text, re.MULTILINE)
    assert names[:1] == [OWN.get(plant, PLANTED[plant][0])], text


def of_layer(text: str, layer: int) -> list[str]:
    """The cells of a layer, without those of a whole run."""
    [cells] = [line.split("  ") for line in text.splitlines() if re.match(rf" +{layer} ", line)]
    return [cell.strip() for cell in cells if cell.strip()][:7]


def test_layers_by_themselves_have_the_verdicts_of_the_whole(stories, wrong, capsys):
    """Each is handed what transformers hands it in a run of the whole."""
    wrong.write_text(REORDERED)
    assert main(["verify", str(stories), str(wrong)]) == 0
    whole = capsys.readouterr().out
    assert main(["verify", str(stories), str(wrong), "--layers", "3,0"]) == 0
    some = capsys.readouterr().out
    assert "layers 0, 3 of 5" in some
    assert [row[0] for row in rows(some)] == ["0", "3"]
    for layer in (0, 3):
        assert of_layer(some, layer) == of_layer(whole, layer)


def test_a_mistake_is_named_in_a_layer_by_itself(copy, wrong, capsys):
    names = [mistake.name for mistake in mistakes.of("attention")]
    wrong.write_text(MISTAKEN.format(component="attention", name=names[0]))
    assert main(["verify", str(copy), str(wrong), "--layers", "3"]) == 1
    text = capsys.readouterr().out
    assert re.findall(r"^culprits: (.*?):", text, re.MULTILINE) == ["attention of layer 3"]
    assert f"known mistake: attention looks like `{names[0]}`" in text


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ("5", "--layers has 5, expected 0 to 4"),
        ("0,x", "--layers is 0,x, expected numbers with commas between them: 0,1,15"),
    ],
)
def test_layers_that_are_not_there_are_one_line(layers, told, stories, wrong, capsys):
    assert main(["verify", str(stories), str(wrong), "--layers", layers]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_findings_are_written_as_json_and_as_a_page(stories, wrong, tmp_path):
    json_file = tmp_path / "out.json"
    html_file = tmp_path / "out.html"
    html_file.write_text("an older page")
    written = ["--json", str(json_file), "--html", str(html_file)]
    assert main(["verify", str(stories), str(wrong), *written]) == 1
    values = json.loads(json_file.read_text())
    assert values["agrees"] is False
    assert [(finding["name"], finding["layer"]) for finding in values["culprits"]] == [("swiglu", LAYER)]
    assert len(values["findings"]) == 85
    assert values["looks_like"] == {"swiglu": "looks like no known mistake"}
    assert len(values["running"]) == 5 * 5 + 2
    assert "transformers 5." in values["versions"]
    text = html_file.read_text()
    assert f"swiglu of layer {LAYER}" in text
    assert "<svg" in text
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?:|<script|<link|<img|@import|url\(", text) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out.json", "wrong.py"]


def test_the_page_is_well_formed_and_escapes_what_it_quotes(stories, wrong, tmp_path):
    hostile = tmp_path / "a<script>&.py"
    wrong.rename(hostile)
    page = tmp_path / "out.html"
    main(["verify", str(stories), str(hostile), "--html", str(page)])
    assert "<script" not in page.read_text()
    open_tags = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, *_):
            if tag != "meta":
                open_tags.append(tag)

        def handle_startendtag(self, *_):
            """Opens nothing."""

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(page.read_text())
    assert open_tags == []


def test_a_model_full_of_nan_is_told_in_every_form(stories, wrong, tmp_path, capsys):
    wrong.write_text(WRONG.replace("+= 0.5", "= float('nan')"))
    written = ["--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")]
    assert main(["verify", str(stories), str(wrong), *written]) == 1
    assert f"culprits: swiglu of layer {LAYER}" in capsys.readouterr().out
    json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert not re.search(r'points="[^"]*(nan|inf)', (tmp_path / "out.html").read_text())


def test_what_an_adapter_lacks_is_no_agreement(stories, wrong, capsys):
    wrong.write_text(WRONG.replace("+= 0.5", "+= 0") + "\ndel rotary\n")
    assert main(["verify", str(stories), str(wrong)]) == 1
    text = capsys.readouterr().out
    assert "culprits: nothing" in text
    assert "not judged: rotary of layers 0, 1, 2, 3, 4" in text


def test_without_a_tokenizer_tokens_are_random(copy, capsys):
    assert main(["verify", str(copy), str(OURS), "--tokens", "5"]) == 0
    assert "random (transformers opens no tokenizer there)" in capsys.readouterr().out


def test_a_config_file_of_transformers_4_is_read(copy, capsys):
    config = json.loads((copy / "config.json").read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "torch_dtype": config.pop("dtype")}
    del config["head_dim"], config["attention_bias"], config["mlp_bias"]
    (copy / "config.json").write_text(json.dumps(config))
    assert main(["verify", str(copy), str(OURS)]) == 0, capsys.readouterr()


def only_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def change(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, r"config\.json: No such file"),
        ("config.json", b"{", r"config\.json: not a JSON object"),
        ("config.json", b"[]", r"config\.json: not a JSON object"),
        ("config.json", b'{"model_type": "gpt2"}', r"config\.json: model_type is 'gpt2', expected 'llama'"),
        ("model.safetensors", None, r"model\.safetensors"),
        ("model.safetensors", b"nonsense", r"copy: transformers cannot open it"),
    ],
)
def test_a_bad_directory_is_one_line(copy, file, content, reason, capsys):
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content)
    assert main(["verify", str(copy), str(OURS)]) == 2
    assert re.search(reason, line := only_line(capsys)), line


def test_a_tensor_under_another_name_is_one_line(copy, capsys):
    change(copy / "model.safetensors", b"model.layers.2.mlp.up_proj", b"model.layers.2.mlp.up_prok")
    assert main(["verify", str(copy), str(OURS)]) == 2
    assert "missing keys: model.layers.2.mlp.up_proj.weight" in only_line(capsys)


def test_a_bad_adapter_is_one_line_under_its_own_traceback(copy, wrong, tmp_path, capsys):
    assert main(["verify", str(copy), str(tmp_path / "none.py")]) == 2
    assert only_line(capsys).endswith("none.py: no such Python file")
    wrong.write_text("import no_such_package")
    assert main(["verify", str(copy), str(wrong)]) == 2
    frame, code, line = capsys.readouterr().err.splitlines()
    assert 'wrong.py", line 1' in frame
    assert code.strip() == "import no_such_package"
    assert line.endswith("wrong.py: ModuleNotFoundError: No module named 'no_such_package'")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dtype", "int8"], "invalid choice 'int8' for argument '--dtype"),
        (["--tokens", "0"], "--tokens is 0, expected 1 or more"),
        (
            ["--json", "no/such/folder/out.json"],
            "--json no/such/folder/out.json: expected a file in a directory that exists",
        ),
        (["--htm", "x"], "--htm is not a flag; did you mean --html?"),
    ],
)
def test_a_bad_option_is_one_line(tmp_path, arguments, reason, capsys):
    try:
        status = main(["verify", str(tmp_path), str(OURS), *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert reason in only_line(capsys)


@pytest.mark.processes
def test_it_runs_as_a_module_from_the_checkout(tmp_path):
    line = [sys.executable, "-m", "llama_reference", "verify", str(tmp_path / "nowhere"), str(OURS)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'nowhere' / 'config.json'}: No such file or directory\n"


def test_an_adapter_is_loaded_from_its_path():
    assert load(OURS).build.__module__ == "ours"
