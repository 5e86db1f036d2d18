"""A directory changes from one checkpoint into another in one instant, whenever the process dies."""

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

from llama_scratch import Llama
from tests.ours import killed_save
from tests.ours.checkpoint_writers import built, logits, made
from tests.ours.killed_save import SHARD

OLD = made("biases", num_hidden_layers=1)
NEW = made("tied", num_hidden_layers=2, eos_token_id=[2, 9])
USERS = {
    "tokenizer.model": b"pieces",
    "notes.txt": b"mine",
    "pytorch_model.bin": b"older",
    "model.old.safetensors": b"x",
}


@pytest.fixture
def directory(tmp_path):
    """The old checkpoint, in several files, among files and a folder of the user's."""
    directory = tmp_path / "out"
    built(*OLD).save_pretrained(directory, max_shard_size=SHARD)
    for name, content in USERS.items():
        (directory / name).write_bytes(content)
    (directory / "logs").mkdir()
    (directory / "logs" / "log").write_bytes(b"1")
    return directory


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """The one that is going to be killed, over and over, while it saves."""
    sources = [tmp_path_factory.mktemp("source") for _ in range(2)]
    for source, model in zip(sources, (OLD, NEW), strict=True):
        built(*model).save_pretrained(source)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, killed_save.__file__, *sources]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def victim(process, directory, monkeypatch):
    """Called with (0 or 1, "event" or "after", when): a save that is killed; True if it was not done by then."""
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def save(which: int, how: str, when: float) -> bool:
        process.stdin.write(f"{which} {how} {when} {directory}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer in ("killed\n", "done\n")
        return answer == "killed\n"

    return save


def which(directory: Path) -> int:
    """0 for the old checkpoint, 1 for the new one: by all of its configuration and every bit of its weights."""
    model = Llama.from_pretrained(directory)
    found = [
        config == model.config and all(torch.equal(model.state_dict()[key], weight) for key, weight in state.items())
        for config, state in SAVED
    ]
    assert sum(found) == 1
    return found.index(True)


SAVED = []
for _config, _state in (OLD, NEW):
    _model = built(_config, _state)
    object.__setattr__(_model.config, "dtype", "float32")
    SAVED.append((_model.config, _state))


def users_files_are_there(directory: Path) -> bool:
    return all((directory / name).read_bytes() == content for name, content in USERS.items()) and (
        (directory / "logs" / "log").read_bytes() == b"1"
    )


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_file() and not path.is_symlink()} - USERS.keys()


def test_nothing_but_the_new_checkpoint_and_the_users_files_is_left(directory):
    shards = {f"model-0000{i}-of-00003.safetensors" for i in range(1, 4)}
    always = {"config.json", "generation_config.json"}
    assert names(directory) == shards | always | {"model.safetensors.index.json"}
    built(*NEW).save_pretrained(directory)
    assert which(directory) == 1
    assert {path.name for path in directory.iterdir()} == always | {"model.safetensors"} | USERS.keys() | {"logs"}
    assert users_files_are_there(directory)
    umask = os.umask(0)
    os.umask(umask)
    assert all((directory / name).stat().st_mode & 0o777 == 0o666 & ~umask for name in names(directory))


@pytest.mark.processes
def test_a_save_that_is_killed_before_any_change_leaves_the_old_or_the_new(directory, victim):
    """Every instant between two changes of a directory, one after another; the next save then leaves no trace."""
    before = names(directory)
    old, layouts, outcomes, change = built(*OLD), set(), [], 1
    while victim(1, "event", change):
        outcomes.append(which(directory))
        assert users_files_are_there(directory)
        layout = frozenset((path.name, path.is_symlink(), path.exists()) for path in directory.glob("*.*"))
        if layout not in layouts and len(layouts) % 12 == 0:  # for other readers too
            theirs = transformers.LlamaForCausalLM.from_pretrained(directory, attn_implementation="eager")
            mine = Llama.from_pretrained(directory)
            assert torch.equal(logits(lambda tokens, m=theirs: m(tokens, use_cache=False).logits), logits(mine))
        layouts.add(layout)
        old.save_pretrained(directory, max_shard_size=SHARD)
        assert names(directory) == before
        assert not list(directory.glob(".*"))
        change += 1
    assert which(directory) == 1
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 1}
    assert len(layouts) > 20


@pytest.mark.processes
def test_a_save_that_is_killed_at_50_random_instants_leaves_a_loadable_directory(directory, victim):
    dice, state, killed = random.Random(0), 0, 0
    started = time.perf_counter()
    assert not victim(1, "event", 10**9)
    seconds = time.perf_counter() - started
    state = 1
    for _ in range(50):
        other = 1 - state
        killed += victim(other, "after", dice.uniform(0, seconds))
        state = which(directory)
        assert users_files_are_there(directory)
    assert killed >= 10
    built(*OLD).save_pretrained(directory, max_shard_size=SHARD)
    assert which(directory) == 0
    assert not list(directory.glob(".*"))


@pytest.mark.parametrize("first", [76, 92], ids=["before the instant", "after it"])
def test_a_second_kill_before_the_first_is_tidied_up_is_harmless(first, directory, victim):
    old = built(*OLD)
    for second in range(2, 110, 13):
        assert victim(1, "event", first)
        assert any(path.is_symlink() for path in directory.iterdir())
        victim(1, "event", second)
        which(directory)
        assert users_files_are_there(directory)
        old.save_pretrained(directory, max_shard_size=SHARD)
        assert which(directory) == 0
        assert not list(directory.glob(".*"))


def test_a_fresh_directory_has_nothing_to_load_until_it_has_all(directory, victim):
    for path in list(directory.iterdir()):
        if path.is_file():
            path.unlink()
    for change in range(1, 20, 6):
        assert victim(1, "event", change)
        assert not (directory / "config.json").exists()
    built(*NEW).save_pretrained(directory)
    assert which(directory) == 1


def test_saving_over_the_directory_that_is_memory_mapped_is_safe(directory):
    mapped = Llama.from_pretrained(directory)
    smaller = built(*NEW)
    smaller.save_pretrained(directory)
    mapped.save_pretrained(directory)
    assert which(directory) == 0
    Llama.from_pretrained(directory).save_pretrained(directory, max_shard_size=1)
    assert which(directory) == 0


def content(directory: Path) -> dict:
    paths = directory.rglob("*")
    return {path.relative_to(directory): path.is_symlink() or path.is_dir() or path.read_bytes() for path in paths}


@pytest.mark.parametrize("nth", [1, 2])
def test_a_failing_write_leaves_the_old_files(nth, directory, monkeypatch):
    before, calls = content(directory), []

    def fail(_weights, path, **_):
        calls.append(path)
        path.write_bytes(b"half")
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llama_scratch.checkpoint.hf_files.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        built(*NEW).save_pretrained(directory, max_shard_size=SHARD)
    assert content(directory) == before


def fail_halfway(directory, monkeypatch) -> None:
    """A save whose disk is full in the middle of the exchange."""
    symlink, calls = os.symlink, []

    def fail(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        symlink(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", fail)
        with pytest.raises(OSError, match="No space left"):
            built(*NEW).save_pretrained(directory, max_shard_size=SHARD)


def test_a_failure_halfway_through_the_exchange_is_undone(directory, monkeypatch):
    before = content(directory)
    fail_halfway(directory, monkeypatch)
    assert content(directory) == before


def test_a_failure_after_a_kill_is_undone_too(directory, victim, monkeypatch):
    before = content(directory)
    assert victim(1, "event", 76)
    assert any(path.is_symlink() for path in directory.iterdir())
    fail_halfway(directory, monkeypatch)
    assert content(directory) == before


@pytest.mark.parametrize("function", ["symlink", "link"])
def test_a_file_system_without_links_gets_the_files_all_the_same(function, directory, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, function, refuse)
    built(*NEW).save_pretrained(directory)
    assert which(directory) == 1
    assert {path.name for path in directory.glob("*.safetensors")} == {"model.safetensors", "model.old.safetensors"}
    assert not list(directory.glob(".*"))
    assert users_files_are_there(directory)
