"""What is written appears whole or not at all, made by one process at a time, and leaves nothing beside it."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from llama_scratch import Llama, Tokenizer
from llama_scratch.checkpoint import atomic
from llama_scratch.checkpoint.atomic import InUseError, atomic_directory, atomic_file, locked, recover
from llama_scratch.checkpoint.files import CheckpointError, write_file
from llama_scratch.convert import ConvertConfig, convert
from llama_scratch.data import CorpusConfig, prepare
from llama_scratch.fast import compiled
from tests.ours.checkpoint_writers import built, made

FORK = multiprocessing.get_context("fork")
VERSE = "The cat sat on the mat.\n  The dog did not.\n\n"


def in_two_processes(work, *each):
    """`work(argument)` for each argument in a process of its own, at once; their exit codes."""
    start = FORK.Barrier(len(each))

    def run(argument):
        start.wait(30)
        work(argument)

    workers = [FORK.Process(target=run, args=(argument,)) for argument in each]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    return [worker.exitcode for worker in workers]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def killed_while(work) -> None:
    """Runs `work(ready)` in a process that is killed once it has set `ready`."""
    ready = FORK.Event()
    worker = FORK.Process(target=work, args=(ready,))
    worker.start()
    assert ready.wait(30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()


def slowly(path: Path, content: str) -> None:
    """Writes in many small pieces."""
    with path.open("w") as file:
        for character in content:
            file.write(character)
            file.flush()
            time.sleep(0.002)


def test_two_writers_of_one_file_leave_one_of_both_whole(tmp_path):
    path = tmp_path / "a.txt"
    contents = "a" * 100, "b" * 100
    codes = in_two_processes(lambda content: write_file(path, lambda made: slowly(made, content)), *contents)
    assert codes == [0, 0]
    assert path.read_text() in contents
    assert names(tmp_path) == ["a.txt"]


def test_two_makers_of_one_directory_leave_one_of_both_whole(tmp_path):
    path = tmp_path / "d"

    def make(content):
        with atomic_directory(path) as place:
            slowly(place / "one", content)
            (place / "two").write_text(content)

    assert in_two_processes(make, "a" * 100, "b" * 100) == [0, 0]
    assert (path / "one").read_text() == (path / "two").read_text()
    assert names(tmp_path) == ["d"]


def test_many_processes_hold_a_lock_one_after_another_although_its_file_is_removed_each_time(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(_):
        for _ in range(40):
            with locked(tmp_path / "x") as alone:
                assert alone
                counter.write_text(str(int(counter.read_text()) + 1))

    assert in_two_processes(count, *range(4)) == [0] * 4
    assert counter.read_text() == "160"
    assert names(tmp_path) == ["counter"]


@pytest.mark.parametrize("make", [atomic_file, atomic_directory])
def test_a_kill_leaves_the_old_one_and_the_next_making_nothing_else(make, tmp_path):
    path = tmp_path / "x"

    def once(content, ready=None):
        with make(path) as place:
            (place if make is atomic_file else place / "inside").write_text(content)
            if ready is not None:
                ready.set()
                time.sleep(60)

    def read():
        return (path if make is atomic_file else path / "inside").read_text()

    once("old")
    killed_while(lambda ready: once("new", ready))
    assert read() == "old"
    assert len(names(tmp_path)) == 3
    once("newer")
    assert read() == "newer"
    assert names(tmp_path) == ["x"]


def test_a_kill_between_the_two_renames_is_undone(tmp_path, monkeypatch):
    path = tmp_path / "d"
    with atomic_directory(path) as place:
        (place / "old").touch()
    rename = Path.rename

    def die_at_the_second(ready):
        def count(self, target):
            if Path(target) == path:
                ready.set()
                time.sleep(60)
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", count)
        with atomic_directory(path) as place:
            (place / "new").touch()

    killed_while(die_at_the_second)
    assert not path.exists()
    recover(tmp_path)
    assert names(tmp_path) == ["d"]
    assert names(path) == ["old"]


def test_settling_leaves_alone_what_a_living_process_makes(tmp_path):
    with atomic_directory(tmp_path / "d") as place:
        (place / "x").touch()
        recover(tmp_path)
        assert (place / "x").exists()
    assert names(tmp_path / "d") == ["x"]


def test_similar_names_are_not_taken_for_leftovers(tmp_path):
    users = [".a.txt.tmp", ".a.notes.tmp", ".a.b.01234567.tmp"]
    for name in users:
        (tmp_path / name).mkdir()
    write_file(tmp_path / "a", lambda made: made.write_text("x"))
    assert names(tmp_path) == sorted([*users, "a"])


@pytest.mark.parametrize("make", [atomic_file, atomic_directory])
def test_an_exception_leaves_no_trace_of_new_parents_either(make, tmp_path):
    with pytest.raises(ZeroDivisionError), make(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_link_stays_a_link_to_the_directory_that_is_replaced(tmp_path):
    (tmp_path / "disk" / "tokens").mkdir(parents=True)
    (tmp_path / "tokens").symlink_to(tmp_path / "disk" / "tokens")
    with atomic_directory(tmp_path / "tokens") as place:
        (place / "x").touch()
    assert (tmp_path / "tokens").is_symlink()
    assert names(tmp_path / "disk" / "tokens") == ["x"]
    assert names(tmp_path / "disk") == ["tokens"]


def test_waiting_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(atomic, "PATIENCE", 0.01)
    held, go_on = FORK.Event(), FORK.Event()

    def hold():
        with locked(tmp_path / "x"):
            held.set()
            go_on.wait(30)

    holder = FORK.Process(target=hold)
    holder.start()
    assert held.wait(30)
    with pytest.raises(InUseError, match="x is being written by another process"), locked(tmp_path / "x", wait=False):
        pass
    monkeypatch.setattr(atomic.log, "warning", lambda *a: (logging.getLogger("x").warning(*a), go_on.set()))
    with locked(tmp_path / "x") as alone:
        assert alone
    holder.join()
    assert f"{tmp_path / 'x'} is being written by another process: waiting" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_it_is_written_all_the_same_and_nothing_of_others_removed(number, tmp_path, monkeypatch, caplog):
    """As on some network file systems."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    atomic._warn_about_missing_locks.cache_clear()
    others = tmp_path / ".a.01234567.tmp"
    others.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for content in ("x", "y"):
        write_file(tmp_path / "a", lambda made, content=content: made.write_text(content))
    assert (tmp_path / "a").read_text() == "y"
    assert names(tmp_path) == [others.name, "a"]
    (message,) = [record.getMessage() for record in caplog.records if record.name == "llama_scratch"]
    assert message.startswith(f"{tmp_path} is on a file system without locks ({os.strerror(number)})")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written_is_named(number, tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *more, **options):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), path)
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=rf"{os.strerror(number)}: '{tmp_path}'"), atomic_file(tmp_path / "a"):
        pass


def test_two_preparings_of_the_same_tokens_are_one(tmp_path):
    text, tokens = tmp_path / "text.txt", tmp_path / "tokens"
    text.write_text(VERSE * 3000)
    sizes = tmp_path / "sizes"
    sizes.mkdir()

    def work(size):
        corpus = prepare(CorpusConfig((text,), vocab_size=abs(size)), tokens)
        (sizes / str(size)).write_text(json.dumps([len(corpus.training), corpus.tokenizer.vocab_size]))

    assert in_two_processes(work, 280, -280) == [0, 0]
    assert (sizes / "280").read_text() == (sizes / "-280").read_text()
    assert in_two_processes(work, 281, 290) == [0, 0], "and those of different ones wait for each other"
    assert [json.loads((sizes / size).read_text())[1] for size in ("281", "290")] == [281, 290]
    assert hidden(tmp_path) == []


def test_two_savings_into_one_directory_leave_one_checkpoint(tmp_path):
    models = [built(*made("untied")), built(*made("tied", num_hidden_layers=2))]

    def save(which):
        for _ in range(8):
            models[which].save_pretrained(tmp_path / "model", max_shard_size=100_000)

    assert in_two_processes(save, 0, 1) == [0, 0]
    found = Llama.from_pretrained(tmp_path / "model").state_dict()
    assert any(
        found.keys() == model.state_dict().keys() and all(found[k].equal(w) for k, w in model.state_dict().items())
        for model in models
    )
    assert hidden(tmp_path) == []
    assert not any(path.is_symlink() for path in (tmp_path / "model").iterdir())


def test_two_savings_of_a_tokenizer_leave_one(tmp_path):
    tokenizers = [Tokenizer.train([VERSE * 30], size) for size in (280, 290)]
    codes = in_two_processes(lambda which: tokenizers[which].save_pretrained(tmp_path / "t"), 0, 1)
    assert codes == [0, 0]
    assert Tokenizer.from_pretrained(tmp_path / "t").vocab_size in (280, 290)
    assert hidden(tmp_path) == []


def test_of_two_conversions_to_one_place_the_second_finds_it_occupied(tmp_path):
    built(*made("untied")).save_pretrained(tmp_path / "source")

    def work(name):
        try:
            convert(ConvertConfig(tmp_path / "source", tmp_path / "converted"))
        except CheckpointError as error:
            (tmp_path / name).write_text(str(error))

    assert in_two_processes(work, "first", "second") == [0, 0]
    (refused,) = [path for path in tmp_path.iterdir() if path.is_file()]
    assert "converted exists already" in refused.read_text()
    assert Llama.from_pretrained(tmp_path / "converted")
    assert hidden(tmp_path) == []


def test_of_two_that_need_the_same_step_one_compiles(tmp_path, monkeypatch):
    """With a stand-in for the compiler."""
    monkeypatch.setenv(compiled.CACHE_DIR_VARIABLE, str(tmp_path / "steps"))
    key = compiled.StepKey("{}", "float32", several=False, padded=False, threads=1)
    calls = tmp_path / "calls"

    def compile_slowly(_, place):
        with calls.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        place.write_text("code")

    monkeypatch.setattr(compiled, "_compile", compile_slowly)
    assert in_two_processes(lambda _: compiled._make(key), 0, 1) == [0, 0]
    assert calls.read_text() == "x"
    assert [path.name for path in (tmp_path / "steps").iterdir()] == [key.path.name]
