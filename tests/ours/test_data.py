"""Text to batches: every token is used, none twice where once is meant, and bad input is named."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from llama_scratch import Tokenizer, data
from llama_scratch.command_line import this_python
from llama_scratch.data import (
    CorpusConfig,
    DataError,
    baselines,
    corpus,
    encoding,
    prepare,
    sources,
    token_files,
)
from llama_scratch.data.sizes import SIZES
from llama_scratch.data.token_files import TokenArray, token_dtype
from llama_scratch.model.loss import IGNORED

VERSE = "The cat sat on the mat.\n  The dog did not.\n\n"


SOURCES = ("built-in", "file", "folder", "jsonl", "gz")


def written(source: str, tmp_path, monkeypatch, verse: str = VERSE) -> CorpusConfig:
    """A request for a text of that kind, each with a content of its own."""
    text = f"{source}: {verse}" * 60
    names = {"built-in": None, "file": "a.txt", "folder": "b/c.txt", "jsonl": "d.jsonl", "gz": "e.txt.gz"}
    if source == "built-in":
        for module in (corpus, sources):
            monkeypatch.setattr(module, "python_documents", lambda: [text])
        return CorpusConfig(vocab_size=280)
    path = tmp_path / "texts" / names[source]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (json.dumps({"text": text}) if source == "jsonl" else text).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if source == "gz" else content)
    return CorpusConfig((path.parent if source == "folder" else path,), vocab_size=280)


def documents(*paths, text_field="text", **sizes) -> list[str]:
    """The documents, put together again."""
    found, parts = [], []
    for chunk in data.read_chunks(data.find_files(paths), text_field, sizes=SIZES._replace(**sizes)):
        parts.append(chunk.text)
        if chunk.ends:
            found.append("".join(parts))
            parts = []
    assert not parts
    return found


def row(path, values, dtype=np.uint16) -> TokenArray:
    np.asarray(values, dtype).tofile(path)
    return TokenArray([path], np.dtype(dtype))


@pytest.fixture
def verse(tmp_path):
    path = tmp_path / "text" / "verse.txt"
    path.parent.mkdir()
    path.write_text(VERSE * 100)
    return path


class TestReading:
    def test_files_and_folders_are_read_in_order(self, tmp_path):
        (tmp_path / "b.txt").write_text("second")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.md").write_text("first")
        (tmp_path / "picture.png").write_bytes(b"\xff\xd8")
        (tmp_path / "other").write_text("third\r\n", newline="")
        assert documents(tmp_path, tmp_path / "other") == ["first", "second", "third\r\n"]

    def test_a_glob_stands_for_the_files_that_match(self, tmp_path):
        for name in ("2.txt", "1.txt", "3.md"):
            (tmp_path / name).write_text(name)
        assert documents(tmp_path / "*.txt") == ["1.txt", "2.txt"]

    def test_a_file_may_be_called_like_a_glob(self, tmp_path):
        (tmp_path / "[a].txt").write_text("brackets")
        assert documents(tmp_path / "[a].txt") == ["brackets"]

    def test_gzip_and_lines_of_json_are_the_same_documents(self, tmp_path):
        texts = ["one\n", "zwei ü", "", "drei"]
        lines = "\n".join(json.dumps({"id": 7, "body": text}) for text in texts) + "\n\n"
        (tmp_path / "a.jsonl").write_text(lines)
        (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"packed"))
        assert documents(tmp_path, text_field="body") == [*texts, *texts, "packed"]

    def test_without_paths_it_is_the_text_of_python(self):
        found = documents()
        assert found == data.python_documents()
        assert len(found) > 50
        assert sum(map(len, found)) > 300_000

    @pytest.mark.parametrize(
        "text", ["word " * 9000, "x" * 40_000, "  \n" * 20_000, "ü€😀 " * 9000, "a\u00a0 b" * 9000]
    )
    def test_chunks_are_the_document_whatever_is_in_it(self, tmp_path, text):
        sizes = SIZES._replace(block=1001)  # in the middle of characters
        (tmp_path / "a.txt").write_text(text)
        chunks = list(data.read_chunks([tmp_path / "a.txt"], "text", sizes=sizes))
        assert "".join(chunk.text for chunk in chunks) == text
        assert [chunk.ends for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert len(chunks) >= len(text) // sizes.chunk
        assert max(len(chunk.text) for chunk in chunks) <= sizes.chunk + 1001

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("absent.txt", None, "absent.txt cannot be read: No such file"),
            ("empty.txt", b"", "empty.txt is empty"),
            ("latin1.txt", b"caf\xe9 noir", "latin1.txt is not UTF-8: byte 3 is 0xe9"),
            ("far.txt", b"a" * 300_000 + b"\xff", "far.txt is not UTF-8: byte 300000 is 0xff"),
            ("cut.txt", b"a" * (2**18 - 1) + b"\xe2\x82", "cut.txt is not UTF-8: byte 262143 is 0xe2"),
            ("folder", "make", "folder holds no text file"),
            ("*.none", None, r"\*.none matches no file"),
            ("broken.txt.gz", gzip.compress(b"some text" * 99, mtime=0)[:-9], "broken.txt.gz is damaged"),
            ("plain.txt.gz", b"not packed", "plain.txt.gz is damaged"),
            ("empty.txt.gz", gzip.compress(b"", mtime=0), "empty.txt.gz is empty"),
            ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl, line 2 is not JSON: .*mend the line"),
            (
                "b.jsonl",
                b'{"body": "x"}\n',
                r"b.jsonl, line 1 has no field 'text' but the fields \['body'\]; .*--text-field",
            ),
            (
                "c.jsonl",
                b'{"text": "x"}\n\n["text"]\n',
                r"c.jsonl, line 3 is \[\"text\"\], expected an object with a field 'text'",
            ),
            ("d.jsonl", b'{"text": 7}\n', "d.jsonl, line 1: 'text' is 7, expected text"),
            (
                "e.jsonl",
                b'{"text": "\xe9"}\n',
                "e.jsonl is not UTF-8: byte 10 is 0xe9, in line 1; .*iconv -f WINDOWS-1252",
            ),
            ("f.jsonl", b'{"text": "\\ud800"}\n', "f.jsonl, line 1: 'text' holds half of a surrogate pair at 0"),
            ("g.jsonl", b'{"text": ""}\n', "g.jsonl is empty"),
        ],
    )
    def test_bad_input_is_named(self, tmp_path, name, content, message):
        if content == "make":
            (tmp_path / name).mkdir()
        elif content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            documents(tmp_path / name)

    def test_a_line_without_end_is_not_read_into_memory(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 10_000)
        with pytest.raises(DataError, match="line 1 is longer than 100 characters"):
            documents(tmp_path / "a.jsonl", line=100, block=64)


class TestSplitting:
    @pytest.mark.parametrize("boundary", [1, 3, 4, 5, 13, 14, 16, 19])
    def test_the_end_is_held_out(self, boundary):
        chunks = [
            sources.TextChunk(*p)
            for p in (("aaaa", True), ("bbbbb", False), ("bbbbb", True), ("cc", True), ("dddd", True))
        ]
        parts = {"training": "", "validation": ""}
        for part, chunk in corpus.split(chunks, boundary):
            parts[part] += chunk.text + ("." if chunk.ends else "")
        assert parts["training"].replace(".", "") + parts["validation"].replace(".", "") == "aaaabbbbbbbbbbccdddd"
        assert len(parts["training"].replace(".", "")) == boundary
        assert parts["training"].endswith(".")
        assert parts["validation"].endswith("d.")

    def test_a_large_text_does_not_give_up_more_than_is_worth_evaluating(self, verse, tmp_path):
        made = prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "tokens", sizes=SIZES._replace(validation=50))
        assert len(made.validation_text) == 50


class TestPreparing:
    def test_documents_stand_between_bos_and_eos_and_the_parts_are_the_text(self, tmp_path):
        texts = [VERSE * 10, VERSE * 20, "Another cat.\n" * 30]
        for i, text in enumerate(texts):
            (tmp_path / f"{i}.txt").write_text(text)
        made = prepare(CorpusConfig((tmp_path,), vocab_size=290), tmp_path / "tokens")
        tokenizer = made.tokenizer
        cut = len("".join(texts)) // 10
        assert made.validation_text.decode() == "".join(texts)[-cut:]
        bos, eos = tokenizer.bos_id, tokenizer.eos_id
        whole = [text for text in (*texts[:2], texts[2][:-cut]) if text]
        expected = [i for text in whole for i in (bos, *tokenizer.encode(text), eos)]
        assert cut < len(texts[2])
        assert made.training.read(0, 10**6).tolist() == expected
        assert made.validation.read(0, 10**6).tolist() == [bos, *tokenizer.encode(texts[2][-cut:]), eos]

    def test_the_tokenizer_does_not_learn_from_what_is_held_out(self, tmp_path):
        text = "abcd " * 900
        for name, end in (("a", "wxyz " * 100), ("b", "stuv " * 100)):
            (tmp_path / f"{name}.txt").write_text(text + end)
        made = [prepare(CorpusConfig((tmp_path / f"{n}.txt",), vocab_size=265), tmp_path / n) for n in "ab"]
        assert made[0].validation_text != made[1].validation_text
        assert len({(m.directory / "tokenizer" / "tokenizer.model").read_bytes() for m in made}) == 1

    def test_processes_and_chunks_change_nothing(self, verse, tmp_path):
        verse.write_text(VERSE * 1000)
        request = CorpusConfig((verse, verse), vocab_size=290)
        one = prepare(request, tmp_path / "one", processes=1, sizes=SIZES._replace(chunk=10**9))
        sizes = SIZES._replace(chunk=5000, single_process=0)
        given = CorpusConfig((verse, verse), tokenizer=tmp_path / "one" / "tokenizer")
        two = prepare(given, tmp_path / "two", processes=2, sizes=sizes)
        assert len(one.training) > 5000
        for part in ("training", "validation"):
            assert torch.equal(getattr(one, part).read(0, 10**6), getattr(two, part).read(0, 10**6))

    def test_a_tokenizer_that_puts_a_space_in_front_does_so_once_a_document(self, shared):
        tokenizer = Tokenizer.from_pretrained(shared / "tokenizers" / "llama2")
        encode = encoding.Encoder(tokenizer)
        text = "Some words and more of them. " * 50
        chunks = list(sources.cut([text], 100))
        assert len(chunks) > 5
        ids = [i for n, chunk in enumerate(chunks) for i in encode(chunk, n == 0).tolist()]
        assert ids == tokenizer.encode(text, bos=True, eos=True)

    def test_an_unchanged_text_is_reused_and_a_changed_one_noticed(self, verse, tmp_path, monkeypatch):
        request = CorpusConfig((verse,), vocab_size=280)
        where = tmp_path / "tokens"
        made = []
        make = corpus._make
        monkeypatch.setattr(corpus, "_make", lambda *a: (made.append(1), make(*a)))
        first = prepare(request, where)
        assert prepare(request, where).digest == first.digest
        os.utime(verse, ns=(1, 1))  # touched, and still the same
        assert prepare(request, where).digest == first.digest
        assert len(made) == 1
        verse.write_text(VERSE * 99 + VERSE.upper())  # the same length
        second = prepare(request, where)
        assert (len(made), second.digest != first.digest) == (2, True)
        third = prepare(CorpusConfig((verse,), vocab_size=281), where)
        fourth = prepare(CorpusConfig((verse,), vocab_size=281, val_fraction=0.2), where)
        assert len({m.digest for m in (first, second, third, fourth)}) == len(made) == 4
        assert third.tokenizer.vocab_size == 281

    @pytest.mark.parametrize("first", SOURCES)
    @pytest.mark.parametrize("second", SOURCES)
    def test_one_text_after_another_in_the_same_place(self, first, second, tmp_path, monkeypatch):
        made, where = [], tmp_path / "tokens"
        make = corpus._make
        monkeypatch.setattr(corpus, "_make", lambda *a: (made.append(1), make(*a)))
        requests = [written(name, tmp_path, monkeypatch) for name in (first, second)]
        found = [prepare(request, where).digest for request in (*requests, *requests[::-1], requests[0])]
        assert len(made) == (1 if first == second else 3)
        a, b = found[:2]
        assert found == [a, b, b, a, a]
        assert (a == b) == (first == second)
        assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()

    @pytest.mark.parametrize("name", SOURCES)
    def test_a_text_that_has_changed_is_prepared_anew(self, name, tmp_path, monkeypatch):
        request = written(name, tmp_path, monkeypatch)
        where = tmp_path / "tokens"
        before = prepare(request, where)
        assert prepare(written(name, tmp_path, monkeypatch, VERSE[::-1]), where).digest != before.digest
        assert prepare(written(name, tmp_path, monkeypatch), where).digest == before.digest

    @pytest.mark.parametrize("there", ["book.txt", "config.json", ".git", "tokenizer.model"])
    def test_a_directory_that_holds_anything_else_is_not_replaced(self, verse, tmp_path, there):
        where = tmp_path / "mine"
        where.mkdir()
        (where / there).write_text("precious")
        with pytest.raises(DataError, match=rf"mine holds {there}, which does not belong .*--tokens-dir"):
            prepare(CorpusConfig((verse,), vocab_size=280), where)
        assert (where / there).read_text() == "precious"
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="file is a file, expected a directory"):
            prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "file")

    def test_tokens_that_cannot_be_written_are_read(self, verse, tmp_path, monkeypatch):
        request = CorpusConfig((verse,), vocab_size=280)
        where = tmp_path / "tokens"
        before = prepare(request, where).digest

        def read_only(*_, **__):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(corpus, "locked", read_only)
        assert prepare(request, where).digest == before

    def test_what_is_held_out_stays_as_it_was_when_it_was_opened(self, verse, tmp_path):
        first = prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "tokens")
        before = first.validation_text
        prepare(CorpusConfig((verse,), vocab_size=280, val_fraction=0.2), tmp_path / "tokens")
        assert first.validation_text == before

    def test_what_a_run_has_open_stays_as_it_is_when_the_text_is_prepared_anew(self, verse, tmp_path):
        first = prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "tokens")
        before = first.training.read(0, 10**6)
        prepare(CorpusConfig((verse,), vocab_size=281), tmp_path / "tokens")
        assert torch.equal(first.training.read(0, 10**6), before)

    @pytest.mark.parametrize("name", ["training-00000.bin", "validation-00000.bin", "validation.txt"])
    def test_a_shard_that_was_cut_short_is_an_error(self, verse, tmp_path, name):
        request = CorpusConfig((verse,), vocab_size=280)
        where = tmp_path / "tokens"
        prepare(request, where)
        if name.endswith(".bin"):
            with (where / name).open("r+b") as file:
                file.truncate(10)
        else:
            (where / name).unlink()
        with pytest.raises(DataError, match=f"{name} has been changed or removed: remove"):
            prepare(request, where)

    def test_a_manifest_that_is_none_means_that_nothing_is_there(self, verse, tmp_path):
        request = CorpusConfig((verse,), vocab_size=280)
        where = tmp_path / "tokens"
        tokens = prepare(request, where).training.read(0, 10**6)
        (where / "manifest.json").rename(tmp_path / "good.json")
        good = json.loads((tmp_path / "good.json").read_text())
        lacking = [json.dumps({k: v for k, v in good.items() if k != name}) for name in good]
        poor = [json.dumps(good | {"origin": good["origin"] | {"files": files}}) for files in (3, [3], [{}], [None])]
        for content in ("", "{}", "[1]", '{"origin": 3}', *lacking, *poor):
            (where / "manifest.json").write_text(content)
            assert torch.equal(prepare(request, where).training.read(0, 10**6), tokens)

    @pytest.mark.parametrize(
        ("content", "context", "message"),
        [
            ("short", 2, "5 characters of text are too few to hold out a fraction of 0.1"),
            (VERSE * 10, 200, r"\d+ tokens of validation text are fewer than --seq-len 200"),
            (VERSE * 10, 2000, r"\d+ tokens of training text are fewer than --seq-len 2000"),
        ],
    )
    def test_too_little_text_leaves_nothing_behind(self, verse, tmp_path, content, context, message):
        verse.write_text(content)
        with pytest.raises(DataError, match=message):
            prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "new" / "tokens", context=context)
        assert not (tmp_path / "new").exists()

    @pytest.mark.processes
    def test_a_kill_leaves_nothing_that_looks_complete(self, tmp_path):
        """Killed while it tokenises; what is left is no corpus, does not stop the next one, and is gone after it."""
        text = tmp_path / "text.txt"
        text.write_text(VERSE * 40_000)
        line = [sys.executable, "-m", "llama_scratch.data", "--data", str(text),
                "--tokens-dir", str(tmp_path / "tokens"), "--vocab-size", "280"]  # fmt: skip
        child = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob(".tokens.*.tmp/tokens/training*")):
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "tokens").exists()
        text.write_text(VERSE * 50)
        prepare(CorpusConfig((text,), vocab_size=280), tmp_path / "tokens")
        assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "tokens"}

    def test_an_error_in_between_leaves_the_old_corpus(self, verse, tmp_path, monkeypatch):
        first = prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "tokens")

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(corpus, "write_shards", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(CorpusConfig((verse,), vocab_size=281), tmp_path / "tokens")
        assert {path.name for path in tmp_path.iterdir()} == {"text", "tokens"}
        assert prepare(CorpusConfig((verse,), vocab_size=280), tmp_path / "tokens").digest == first.digest

    @pytest.mark.processes
    def test_the_command_line_says_how_much_and_how_fast(self, verse, tmp_path):
        line = [sys.executable, "-m", "llama_scratch.data", "--data", str(verse), "--vocab-size", "280"]
        for _ in range(2):
            done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert "tokens to train on" in done.stdout
            assert "MB/s" in done.stdout
            with contextlib.chdir(tmp_path):
                told = f"{this_python()} -m llama_scratch.train --tokens-dir tokens --data {verse} --vocab-size 280"
            assert f"train on it: {told}" in done.stdout
        bad = subprocess.run([*line, "--data", "absent"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert bad.stderr == "error: absent cannot be read: No such file or directory\n"


class TestRow:
    def test_a_token_has_as_many_bytes_as_the_vocabulary_needs(self):
        assert [token_dtype(size).itemsize for size in (512, 65_536, 65_537, 128_256)] == [2, 2, 4, 4]

    @pytest.mark.parametrize(("highest", "dtype"), [(65_535, np.uint16), (70_000, np.uint32)])
    def test_the_highest_id_is_read_back(self, tmp_path, highest, dtype):
        assert row(tmp_path / "t.bin", [1, highest], dtype).read(0, 2).tolist() == [1, highest]

    def test_shards_are_one_row(self, tmp_path):
        parts = [np.arange(i, i + 3, dtype=np.uint16) for i in range(0, 24, 3)]
        written = token_files.write_shards(tmp_path, "training", iter(parts), size=7)
        assert [count for _, count in written] == [9, 9, 6]
        tokens = TokenArray([tmp_path / name for name, _ in written], np.dtype(np.uint16))
        assert len(tokens) == 24
        for start in range(25):
            for count in (0, 1, 5, 12, 30):
                assert tokens.read(start, count).tolist() == list(range(24))[start : start + count]


class TestSequences:
    @pytest.mark.parametrize("extra", [0, 1, 2, 5])
    def test_every_start_is_sequencesand_no_other(self, tmp_path, extra):
        context = 4
        tokens = row(tmp_path / "t.bin", range(context + extra))
        sequences = data.random_sequences(tokens, 500, context, seed=0, step=0)
        assert sequences.shape == (500, context)
        assert set(sequences[:, 0].tolist()) == set(range(extra + 1))
        assert torch.equal(sequences, sequences[:, :1] + torch.arange(context))

    def test_sequences_are_a_function_of_seed_and_step(self, tmp_path):
        tokens = row(tmp_path / "t.bin", range(10_000))
        drawn = {
            (seed, step): data.random_sequences(tokens, 4, 3, seed, step) for seed in range(3) for step in range(20)
        }
        assert len({tuple(w.flatten().tolist()) for w in drawn.values()}) == 60
        for (seed, step), sequences in drawn.items():
            assert torch.equal(data.random_sequences(tokens, 4, 3, seed, step), sequences)

    def test_too_little_text_is_said(self, tmp_path):
        with pytest.raises(DataError, match="3 tokens of text are fewer than the context of 4"):
            data.random_sequences(row(tmp_path / "t.bin", range(3)), 1, 4, 0, 0)

    @pytest.mark.parametrize("length", range(2, 30))
    @pytest.mark.parametrize("batch", [1, 3])
    def test_every_token_but_the_first_is_a_target_once(self, tmp_path, length, batch):
        targets = []
        for inputs, labels in data.all_sequences(row(tmp_path / "t.bin", range(length)), batch, context=5):
            assert torch.equal(inputs[labels != IGNORED], labels[labels != IGNORED])
            targets += [int(t) for t in labels[:, 1:].flatten() if t != IGNORED]
        assert targets == list(range(1, length))


def test_baselines():
    assert baselines.unigram_bits_per_byte(b"abcd" * 100) == 2.0
    assert baselines.xz_bits_per_byte(b"abcd" * 10_000) < 0.05
