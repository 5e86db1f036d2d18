"""One run after another in the same --out: each text and each way to end, and nothing is buried without a word."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_scratch import Llama, train
from llama_scratch.checkpoint import atomic
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.train import TrainConfig
from llama_scratch.training import checkpoints
from tests.ours.checkpoint_writers import built, made
from tests.ours.test_data import SOURCES, written

pytestmark = pytest.mark.processes

SETTINGS = {"steps": 6, "batch_size": 4, "seq_len": 16, "vocab_size": 280, "hidden_size": 32, "layers": 1, "heads": 2,
            "warmup": 2, "eval_every": 6, "save_every": 2, "compile": "off"}  # fmt: skip
LINE = [sys.executable, "-m", "llama_scratch.train", "--vocab-size", "512", "--steps", "3000", "--batch-size", "2"]
LINE += ["--seq-len", "16", "--hidden-size", "16", "--layers", "1", "--heads", "2", "--save-every", "20"]

# all others are prepared one after another in test_data.py
PAIRS = [("built-in", name) for name in SOURCES[1:]] + [("file", "built-in"), ("jsonl", "gz")]


class Killed(BaseException):
    """What nobody catches."""


def of(name: str, tmp_path: Path, monkeypatch, **changes) -> TrainConfig:
    """A run on the text of that name."""
    request = written(name, tmp_path, monkeypatch, **{k: changes.pop(k) for k in ("verse",) if k in changes})
    return TrainConfig(**{"data": request.data, "out": tmp_path / "out"} | SETTINGS | changes)


def killed_at(step: int, config: TrainConfig) -> None:
    take_step, calls = train.take_step, []

    def take(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise Killed
        return take_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "take_step", take)
        with pytest.raises(Killed):
            train.train(config)


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with the time of its last change."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_run_again_is_shown_and_changes_nothing(name, tmp_path, monkeypatch, capsys):
    history = train.train(of(name, tmp_path, monkeypatch))
    before = state(tmp_path / "out")
    capsys.readouterr()
    assert train.train(of(name, tmp_path, monkeypatch)) == history
    assert "out/ holds this run already, finished; --overwrite trains it again" in capsys.readouterr().out
    assert state(tmp_path / "out") == before


@pytest.mark.parametrize("name", SOURCES)
def test_a_run_on_each_text_is_killed_and_resumed_to_the_same_bytes(name, tmp_path, monkeypatch):
    config = of(name, tmp_path, monkeypatch)
    train.train(of(name, tmp_path, monkeypatch, out=tmp_path / "unbroken"))
    killed_at(5, config)
    with pytest.raises(ConfigError, match=r"stopped after 4 of 6 steps: resume it by .* --resume --out"):
        train.train(config)
    train.train(of(name, tmp_path, monkeypatch, resume=True))
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "unbroken")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", SOURCES)
def test_a_text_that_has_changed_is_another_run(name, tmp_path, monkeypatch):
    train.train(of(name, tmp_path, monkeypatch))
    before = state(tmp_path / "out")
    changed = "The mat sat on the cat.\n  The dog did not.\n\n"
    with pytest.raises(ConfigError, match=r"finished run that is not this one, its text has changed: .*--overwrite"):
        train.train(of(name, tmp_path, monkeypatch, verse=changed))
    with pytest.raises(ConfigError, match="the text, its tokenizer or its split is not what the run in"):
        train.train(of(name, tmp_path, monkeypatch, verse=changed, resume=True))
    after = state(tmp_path / "out")
    assert {k: v for k, v in after.items() if "tokens" not in k} == {
        k: v for k, v in before.items() if "tokens" not in k
    }
    train.train(of(name, tmp_path, monkeypatch, verse=changed, overwrite=True))
    assert train.train(of(name, tmp_path, monkeypatch, verse=changed))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_run_on_another_text_says_what_is_there_and_takes_its_place_when_told_to(
    first, second, tmp_path, monkeypatch
):
    train.train(of(first, tmp_path, monkeypatch))
    with pytest.raises(ConfigError, match=r"out holds a finished run that is not this one, --data .* instead of"):
        train.train(of(second, tmp_path, monkeypatch))
    history = train.train(of(second, tmp_path, monkeypatch, overwrite=True))
    assert history[-1].step == 6
    assert list(checkpoints.saved_steps(tmp_path / "out")) == [4, 6]


def test_settings_that_differ_are_named(tmp_path, monkeypatch):
    train.train(of("file", tmp_path, monkeypatch))
    for change, said in (({"seed": 3}, "--seed 3 instead of 0"), ({"steps": 8}, "--steps 8 instead of 6")):
        with pytest.raises(ConfigError, match=f"not this one, {said}: replace it by --overwrite, or name another"):
            train.train(of("file", tmp_path, monkeypatch, **change))
    with pytest.raises(ConfigError, match="--steps is 4, expected at least the 6 that the run in"):
        train.train(of("file", tmp_path, monkeypatch, steps=4, resume=True))
    with pytest.raises(ConfigError, match="--overwrite is True, expected left out together with --resume"):
        of("file", tmp_path, monkeypatch, overwrite=True, resume=True)


def test_a_run_that_was_told_to_overwrite_goes_on_by_resume_alone(tmp_path, monkeypatch):
    killed_at(5, of("file", tmp_path, monkeypatch, overwrite=True))
    config = train.read_command_line(["--resume", "--out", str(tmp_path / "out")])
    assert not config.overwrite
    assert train.train(config)[-1].step == 6


@pytest.mark.parametrize("there", ["model", "tokenizer", "log", "checkpoints"])
def test_what_somebody_else_left_in_out_is_not_replaced(there, tmp_path, monkeypatch):
    out = tmp_path / "out"
    names = {"tokenizer": "tokenizer.json", "log": "log.jsonl", "checkpoints": "checkpoints/step-00000003/x"}
    if there == "model":
        built(*made("untied")).save_pretrained(out)
    else:
        (out / names[there]).parent.mkdir(parents=True)
        (out / names[there]).write_text("precious")
    (out / "notes.txt").write_text("mine")
    before = state(out)
    with pytest.raises(
        ConfigError, match=r"out holds .*, which does not belong to a run that can be resumed: replace it by --over"
    ):
        train.train(of("file", tmp_path, monkeypatch))
    assert state(out) == before
    train.train(of("file", tmp_path, monkeypatch, overwrite=True))
    assert (out / "notes.txt").read_text() == "mine"
    assert Llama.from_pretrained(out).config.hidden_size == 32


def test_other_files_in_out_and_in_its_checkpoints_are_no_hindrance_and_stay(tmp_path, monkeypatch):
    mine = [tmp_path / "out" / name for name in ("notes.txt", "checkpoints/best.pt", "book/one.txt")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for overwrite in (False, True):
        train.train(of("file", tmp_path, monkeypatch, overwrite=overwrite))
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_a_run_that_was_killed_before_its_first_checkpoint_is_started_anew(tmp_path, monkeypatch):
    killed_at(2, of("file", tmp_path, monkeypatch))
    assert train.train(of("file", tmp_path, monkeypatch, seed=1))[-1].step == 6


def test_out_may_not_be_a_file(tmp_path, monkeypatch):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="out is a file, expected a directory"):
        train.train(of("file", tmp_path, monkeypatch))


@pytest.fixture
def started(tmp_path):
    """Called with arguments: a process that trains on the text of Python, in `tmp_path`."""
    running = []

    def start(*arguments, until=None):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        line = [*LINE, "--compile", "off", *arguments]
        process = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        while until is not None and not list(tmp_path.glob(until)):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_the_built_in_text_interrupted_and_continued_as_it_says_killed_and_done_twice(started, tmp_path):
    first = started(until="out/checkpoints/step-*")
    second = started()
    assert "error: --out out: another process is training there; wait" in second.communicate(timeout=60)[1]
    first.send_signal(signal.SIGINT)
    said, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    (told,) = [line.partition("to resume: ")[2] for line in said.splitlines() if "to resume: " in line]
    stopped = max(checkpoints.saved_steps(tmp_path / "out"))

    again = subprocess.Popen(["sh", "-c", f"exec {told}"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while max(checkpoints.saved_steps(tmp_path / "out")) <= stopped:
        assert again.poll() is None
        time.sleep(0.02)
    again.kill()
    again.wait()

    refused = started()
    assert "steps: resume it by " in refused.communicate(timeout=60)[1]
    steps = str(max(checkpoints.saved_steps(tmp_path / "out")) + 20)
    for _ in range(2):
        done = started("--resume", "--steps", steps)
        assert done.wait(timeout=60) == 0, done.stderr.read()
    twice = started("--steps", steps)
    said, errors = twice.communicate(timeout=60)
    assert twice.returncode == 0, errors
    assert said.startswith("out/ holds this run already, finished")
    assert "bits/byte" in said
    assert not [path for path in (tmp_path / "out").rglob(".*") if atomic.LEFTOVER.fullmatch(path.name)]
