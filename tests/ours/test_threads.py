"""docs/threads.md: every mistake of a public thread is made again, and named as the page says."""

import json
import re
from pathlib import Path

import pytest

from llama_reference.__main__ import main
from llama_reference.standard.cases import ROPES
from tests.ours.checkpoint_writers import made
from tests.ours.planted_conversions import PLANTED
from tests.ours.test_verify import LLAMA_3_2, REORDERED
from tests.ours.test_verify_against import LLAMA_3_1, SHAPE, written
from tests.profiles import among

PAGE = Path(__file__).parents[2] / "docs" / "threads.md"
ROW = re.compile(r"^\| (?P<thread>[^|]+#[^|]+) \|[^|]+\|[^|]+\| `(?P<how>[^`]+)` \| (?P<named>[^|]+) \|$", re.MULTILINE)
ROWS = {
    found["thread"]: (found["how"], re.findall(r"`([^`]+)`", found["named"]))
    for found in ROW.finditer(PAGE.read_text())
}
QUICK = ("intel-extension-for-transformers#903",)

TWO = """
from llama_reference import mistakes
from llama_reference.implementation import Implementation
from llama_reference.mistakes.mistake import with_steps
wanted = {wanted!r}
known = [one for component, name in wanted for one in mistakes.of(component) if one.name == name]
steps = {{name: step for one in known for name, step in vars(type(one.implementation)).items() if callable(step)}}
right = with_steps("both", steps)
offered = (name for name in dir(Implementation) if not name.startswith("_") and hasattr(right, name))
globals().update({{name: getattr(right, name) for name in offered}})
"""


def test_the_page_has_many():
    assert len(ROWS) >= 20
    assert sum(len(re.findall(r"#\d+", thread)) for thread in ROWS) >= 30


@pytest.fixture
def checkpoint(shared, tmp_path):
    """Of bfloat16, with Llama 3.2's rotary scaling."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    source = shared / "stories260K"
    (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    config = json.loads((source / "config.json").read_text())
    config |= {"rope_parameters": LLAMA_3_2, "max_position_embeddings": 131072, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def adapter(path: Path, how: str) -> Path:
    wanted = [tuple(one.split("/")) for one in how.split(" and ")]
    path.write_text(REORDERED if how == "right" else TWO.format(wanted=wanted))
    return path


def converted(tmp_path: Path, how: str) -> tuple[Path, Path]:
    """The right checkpoint and the wrong one."""
    plant, form = how.rsplit(", ", 1)
    tied = {"tie_word_embeddings": True} if plant == "a random head" else {}
    rope = LLAMA_3_1 if plant == "scaling" else ROPES["default" if form == "llama2.c" else "theta_500000"]
    config, state = made("GQA", **SHAPE | {"rope_parameters": rope} | tied)
    first = written(tmp_path / "first", "float32", config, state)
    if plant == "scaling":  # the writer of this test has no tensor of factors
        return first, written(tmp_path / "second", form, config, state)
    if tied:
        state |= {"lm_head.weight": state["model.embed_tokens.weight"]}
    wrong = PLANTED[plant][1](config, state, form == "llama2.c")
    return first, written(tmp_path / "second", form, *wrong)


@pytest.mark.parametrize("thread", among(ROWS, QUICK))
def test_is_named(thread, checkpoint, tmp_path, capsys):
    how, named = ROWS[thread]
    command, _, what = how.partition(" ")
    if command == "--against":
        first, second = converted(tmp_path, what)
        status = main(["verify", str(first), "--against", str(second)])
    else:
        status = main(["verify", str(checkpoint), str(adapter(tmp_path / "a.py", what))])
    said = capsys.readouterr().out
    assert status == bool(named)
    known = re.findall(r"^known mistake: .*?`(\w[\w-]*)`", said, re.MULTILINE)
    assert sorted(known) == sorted(named), said
    if not named:
        assert "rounded otherwise" in said
