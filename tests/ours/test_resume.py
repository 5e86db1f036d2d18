"""A run that is stopped, killed or out of disk goes on as if it had never been: to the same bytes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama_scratch import Llama, train
from llama_scratch.checkpoint.files import read_json, write_json
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.train import TrainConfig, TrainingError
from llama_scratch.training import checkpoints
from tests.ours.killed_training import SETTINGS, settings
from tests.profiles import among

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
STEPS = SETTINGS["steps"]
SEEDS = among(range(20), ["0", "1"])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verse.txt"
    path.write_text("The cat sat on the mat.\n  The dog did not.\n\n" * 60)
    return path


@pytest.fixture(scope="module")
def unbroken(text, tmp_path_factory):
    """Where a run ended that nothing happened to."""
    config = settings(text, tmp_path_factory.mktemp("unbroken") / "out")
    train.train(config)
    return config.out


@pytest.fixture(scope="module")
def killer(text):
    line = [sys.executable, "-m", "tests.ours.killed_training", text]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "ready\n"

        def kill(how: str, when: float, out: Path) -> str:
            process.stdin.write(f"{how} {when} {out}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield kill
        process.stdin.close()


@pytest.fixture
def at_step(monkeypatch):
    """Called with (n, what): `what()` happens in front of the n-th step from now."""
    take_step = train.take_step

    def arrange(number, what):
        calls = []

        def step(*arguments):
            calls.append(1)
            if len(calls) == number:
                what()
            return take_step(*arguments)

        monkeypatch.setattr(train, "take_step", step)

    return arrange


def assert_same(out: Path, unbroken: Path) -> None:
    """The same weights, optimiser, random numbers and log, but for what time took."""
    for name in ("model.safetensors", f"checkpoints/step-{STEPS:08}/random-00000.safetensors"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert checkpoints_of(out) == checkpoints_of(unbroken)
    assert log(out) == log(unbroken)
    assert not list((out / "checkpoints").glob(".*"))


def checkpoints_of(out: Path) -> dict[str, bytes]:
    folders = (out / "checkpoints").glob("step-*/optimizer/*.distcp")
    return {str(path.relative_to(out)): path.read_bytes() for path in folders}


def log(out: Path) -> list[dict]:
    timed = ("seconds", "tokens_per_second", "share_of_peak")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


class Killed(BaseException):
    """What nobody catches."""


def die() -> None:
    raise Killed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_ends_at_any_step_and_goes_on_has_the_same_bytes(text, tmp_path, unbroken, at_step, seed):
    dice = random.Random(seed)
    out = tmp_path / "out"
    at_step(dice.randint(1, STEPS), die)
    with pytest.raises(Killed):
        train.train(settings(text, out))
    at_step(dice.randint(1, STEPS), die)  # and again, where it gets that far
    try:
        train.train(settings(text, out))
    except Killed:
        at_step(0, die)
        train.train(settings(text, out))
    assert_same(out, unbroken)


@pytest.mark.parametrize("seed", among(range(50), ["2", "3"]))
def test_sigkill_at_any_instant_leaves_a_run_that_goes_on_to_the_same_bytes(text, tmp_path, unbroken, killer, seed):
    dice = random.Random(seed)
    out = tmp_path / "out"
    how, when = ("event", dice.randint(1, 150)) if seed % 2 else ("after", dice.uniform(0.0, 0.6))
    if killer(how, when, out) == "killed":
        for path in checkpoints.saved_steps(out).values():
            Llama.from_pretrained(path)
        train.train(settings(text, out))
    assert_same(out, unbroken)


def test_dropout_goes_on_with_the_same_random_numbers(text, tmp_path, unbroken, at_step, monkeypatch):
    make_model = train.make_model

    def with_dropout(*arguments):
        model = make_model(*arguments)
        for layer in model.model.layers:
            layer.self_attn.dropout = 0.3
        return model

    monkeypatch.setattr(train, "make_model", with_dropout)
    train.train(settings(text, tmp_path / "whole"))
    at_step(13, die)
    with pytest.raises(Killed):
        train.train(settings(text, tmp_path / "out"))
    at_step(0, die)
    train.train(settings(text, tmp_path / "out"))
    assert_same(tmp_path / "out", tmp_path / "whole")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != (unbroken / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_after_its_step_and_says_how_to_go_on(text, tmp_path, unbroken, at_step, capsys, number):
    out = tmp_path / "a folder"
    at_step(8, lambda: os.kill(os.getpid(), number))
    history = train.train(settings(text, out))
    assert history[-1].step == 8
    assert max(checkpoints.saved_steps(out)) == 8
    _, _, line = capsys.readouterr().out.partition("stopped after step 8; to resume: ")
    assert Llama.from_pretrained(out)
    resume, *_ = line.splitlines()
    assert resume.endswith(f" -m llama_scratch.train --resume --out '{out}'")
    done = subprocess.run(resume, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(text, tmp_path, unbroken, at_step):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    for size in (100, 50_000, 150_000):  # the log, the weights, the optimiser
        at_step(8, lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))
        try:
            with pytest.raises(
                TrainingError, match=r"cannot be written: .*File too large.*step-0000\d+ is complete; make room"
            ):
                train.train(settings(text, out))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        for path in checkpoints.saved_steps(out).values():
            Llama.from_pretrained(path)
        assert not list((out / "checkpoints").glob(".*"))
    at_step(0, die)
    train.train(settings(text, out))
    assert_same(out, unbroken)


def test_the_last_checkpoints_stay(text, tmp_path):
    train.train(settings(text, tmp_path))
    assert list(checkpoints.saved_steps(tmp_path)) == [20, STEPS]


def test_a_checkpoint_is_a_hugging_face_directory(unbroken):
    for path in checkpoints.saved_steps(unbroken).values():
        assert Llama.from_pretrained(path)
        assert (path / "tokenizer.json").read_bytes() == (unbroken / "tokenizer.json").read_bytes()


def test_a_run_that_is_over_may_be_told_to_go_further(text, tmp_path):
    out = tmp_path / "out"
    train.train(settings(text, out))
    history = train.train(train.read_command_line(["--resume", "--out", str(out), "--steps", "30"]))
    assert history[-1].step == 30
    assert [row.step for row in history].count(STEPS) == 1


@pytest.fixture
def stopped(text, tmp_path, at_step):
    """A run that was stopped after 12 steps."""
    out = tmp_path / "out"
    at_step(13, die)
    with pytest.raises(Killed):
        train.train(settings(text, out))
    at_step(0, die)
    return out


def test_a_new_run_does_not_bury_one_that_was_stopped(text, stopped):
    with pytest.raises(
        ConfigError, match=r"stopped after 10 of 24 steps: resume it by .* --resume --out .*, replace it by --over"
    ):
        train.train(TrainConfig(data=(text,), out=stopped, **SETTINGS))


def test_a_new_run_takes_the_place_of_one_that_is_over_where_it_is_told_to(text, unbroken, tmp_path):
    out = tmp_path / "out"
    for steps in (10, STEPS):
        train.train(TrainConfig(data=(text,), out=out, overwrite=True, **SETTINGS | {"steps": steps}))
    assert_same(out, unbroken)


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 48), ("seed", 3), ("learning_rate", 1.0), ("batch_size", 8)]
)
def test_a_run_does_not_go_on_as_another(text, stopped, name, value):
    with pytest.raises(ConfigError, match=rf"--{name.replace('_', '-')} is {value}.*was started with"):
        train.train(TrainConfig(data=(text,), out=stopped, resume=True, **SETTINGS | {name: value}))


def test_a_run_does_not_go_on_with_another_text(text, stopped):
    record = read_json(stopped / "run.json")
    write_json(stopped / "run.json", record | {"text": "0" * 64})
    with pytest.raises(ConfigError, match=r"the text, its tokenizer or its split is not what the run in"):
        train.train(settings(text, stopped))


def test_torchrun_goes_on_by_itself_after_a_restart(text, stopped, unbroken, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train.train(TrainConfig(data=(text,), out=stopped, **SETTINGS))
    assert_same(stopped, unbroken)
