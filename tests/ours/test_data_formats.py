"""Every kind of file that people have: read as what it is, or refused with what to do."""

import csv
import gzip
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import transformers

from llama_scratch import Tokenizer, data
from llama_scratch.data import CorpusConfig, DataError, prepare, sources
from llama_scratch.data.sizes import SIZES
from tests.ours.test_data import VERSE, documents

CHATML = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
TURNS = [{"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "On the mat."}]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A directory with a tokenizer and a chat template."""
    directory = tmp_path_factory.mktemp("chatty")
    Tokenizer.train([VERSE * 30 + json.dumps(TURNS) * 9], 300).save_pretrained(directory)
    (directory / "chat_template.jinja").write_text(CHATML)
    return directory


def packed(opened, write) -> bytes:
    content = io.BytesIO()
    with opened(content) as archive:
        write(archive)
    return content.getvalue()


def zipped(*names: str) -> bytes:
    return packed(lambda file: zipfile.ZipFile(file, "w"), lambda z: [z.writestr(name, VERSE) for name in names])


def tarred() -> bytes:
    return packed(
        lambda file: tarfile.open(fileobj=file, mode="w"), lambda t: t.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    )


class TestEncodings:
    @pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".txt.gz"])
    @pytest.mark.parametrize("block", [7, 1 << 18])
    def test_a_byte_order_mark_says_the_encoding_and_is_not_part_of_the_text(self, tmp_path, name, suffix, block):
        text = "zwei ü, 日本 and 😀\nthree"
        mark = "\ufeff" if name.endswith(("le", "be")) else ""
        written = {".jsonl": json.dumps({"text": text}), ".json": json.dumps([{"text": text}])}.get(suffix, text)
        content = (mark + written).encode(name)
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
        assert documents(path, block=block) == [text]  # 7: in the middle of characters

    def test_a_mark_inside_a_text_stays(self, tmp_path):
        (tmp_path / "a.txt").write_text("one\ufefftwo", encoding="utf-8-sig")
        assert documents(tmp_path / "a.txt") == ["one\ufefftwo"]

    def test_a_file_that_is_nothing_but_a_mark_is_empty(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf")
        with pytest.raises(DataError, match=r"a.txt is empty"):
            documents(tmp_path / "a.txt")

    @pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be"])
    def test_utf_16_without_a_mark_is_refused_with_the_command_that_mends_it(self, tmp_path, name):
        (tmp_path / "my text.txt").write_bytes(VERSE.encode(name))
        with pytest.raises(DataError, match="looks like UTF-16 without a byte-order mark") as refused:
            documents(tmp_path / "my text.txt")
        subprocess.run(str(refused.value).partition("convert it: ")[2], shell=True, check=True)
        assert documents(tmp_path / "my text.utf8.txt") == [VERSE]

    @pytest.mark.parametrize("block", [5, 1 << 18])
    def test_what_is_no_character_is_named_by_byte_and_line_and_the_command_mends_it(self, tmp_path, block):
        (tmp_path / "a.txt").write_bytes(b"one\ntwo\nth\xe9")
        with pytest.raises(DataError, match="not UTF-8: byte 10 is 0xe9, in line 3") as refused:
            documents(tmp_path / "a.txt", block=block)
        subprocess.run(str(refused.value).partition("for instance: ")[2], shell=True, check=True)
        assert documents(tmp_path / "a.utf8.txt") == ["one\ntwo\nthé"]


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.parquet", b"PAR1\x15\x04", r"a Parquet file; convert it to .jsonl: .*read_parquet.*--text-field"),
            ("a.txt", b"PAR1\x15\x04", "a Parquet file"),
            ("a.arrow", b"\xff\xff\xff\xff\x10", "an Arrow stream; .*datasets"),
            ("a.pdf", b"%PDF-1.7\n%\xe2", "a PDF document; .*pdftotext"),
            ("a.docx", zipped("word/document.xml"), "a Word document; .*pandoc"),
            ("a.epub", zipped("mimetype"), "a book .*pandoc"),
            ("a.xlsx", zipped("xl/workbook.xml"), "a spreadsheet; .*read_excel"),
            ("a.zip", zipped("a.txt"), "a zip archive; unpack it"),
            ("a.tar", tarred(), "a tar archive; unpack it"),
            ("a.tar.gz", gzip.compress(tarred(), mtime=0), r"a tar archive; unpack it \(tar xf\)"),
            ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "packed by zstd; unpack it: unzstd .*a.jsonl.zst"),
            ("a.txt.xz", b"\xfd7zXZ\0\0", "packed by xz"),
            ("a.txt", gzip.compress(b"some text", mtime=0), "packed by gzip; give it a name that ends in .gz"),
            ("a.doc", b"\xd0\xcf\x11\xe0\xa1", "an old Office document; save it as plain text"),
            ("a.rtf", b"{\\rtf1 text}", "a Rich Text document"),
            ("a.csv", b"id,text\n1,hello\n", r"a table \(CSV\); convert it to .jsonl"),
            ("a.CSV", b"id,text\n1,hello\n", r"a table \(CSV\)"),
            ("a.ipynb", b'{"cells": []}', "a notebook; .*nbconvert"),
            ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a git-lfs pointer.*git lfs pull"),
            ("a.bin", b"\x01\x00\x02\x07", "not text: byte 1 is 0"),
        ],
    )
    def test_what_is_not_text_is_called_what_it_is_with_what_to_do(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is {message}") as refused:
            documents(tmp_path / name)
        assert "\n" not in str(refused.value)
        assert str(refused.value).count("{") == str(refused.value).count("}") == 0  # every place is filled

    @pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
    def test_the_command_that_a_table_is_told_makes_a_jsonl_of_it(self, tmp_path, suffix, delimiter):
        path = tmp_path / f"my table{suffix}"
        texts = ["one, two", 'say "three"\nand four', "fünf\tsechs"]
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerows([("body", "id"), *((text, 7) for text in texts)])
        with pytest.raises(DataError, match="convert it to") as refused:
            documents(path)
        told = str(refused.value).partition("convert it to .jsonl: ")[2].partition("; then name the column")[0]
        command = told.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
        subprocess.run(command, shell=True, check=True)
        assert documents(path.with_suffix(".jsonl"), text_field="body") == texts

    def test_a_pipe_is_refused_before_it_is_read(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="pipe is not a regular file, and must be read several times"):
            data.find_files([tmp_path / "pipe"])


class TestFolders:
    def test_empty_and_hidden_files_that_nobody_named_are_left_out(self, tmp_path):
        (tmp_path / ".venv").mkdir()
        (tmp_path / "__init__.py").touch()
        for name in ("a.py", "b.TXT", "._a.txt", ".venv/c.py"):
            (tmp_path / name).write_text(name)
        assert documents(tmp_path) == ["a.py", "b.TXT"]
        assert documents(tmp_path / "*.py") == ["a.py"]
        with pytest.raises(DataError, match=r"__init__.py is empty"):
            documents(tmp_path / "__init__.py")

    def test_a_folder_of_empty_files_is_refused(self, tmp_path):
        (tmp_path / "a.txt").touch()
        with pytest.raises(DataError, match="has 1 text files, and all of them are empty"):
            documents(tmp_path)


class TestJson:
    TEXTS = ("one\n", "zwei ü \U0001f600", "", 'say "three", [4] {5}')

    @pytest.mark.parametrize("block", [1, 13, 1 << 18])
    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("ascii", [True, False])
    def test_an_array_of_objects_is_as_many_documents(self, tmp_path, block, indent, ascii):
        rows = [{"id": 7, "text": text, "more": [1.5, {"a": None}]} for text in self.TEXTS]
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii), encoding="utf-8")
        assert documents(tmp_path / "a.json", block=block) == list(self.TEXTS)

    @pytest.mark.parametrize("separator", ["\n", "\r\n", "\n\n", " "])
    def test_objects_one_after_another_are_as_many_documents(self, tmp_path, separator):
        written = separator.join(json.dumps({"text": text}) for text in self.TEXTS)
        (tmp_path / "a.json").write_text(written, newline="")
        assert documents(tmp_path / "a.json") == list(self.TEXTS)

    @pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.ndjson.gz"])
    def test_lines_are_documents_under_either_name(self, tmp_path, name):
        written = "\r\n".join(json.dumps({"text": text}) for text in self.TEXTS).encode()
        (tmp_path / name).write_bytes(gzip.compress(written) if name.endswith(".gz") else written)
        assert documents(tmp_path / name) == list(self.TEXTS)

    def test_a_prompt_and_its_completion_are_one_text(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "2 + 2 =", "completion": " 4"}))
        assert documents(tmp_path / "a.jsonl") == ["2 + 2 = 4"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.json", '[{"text": "x"},\n {"text": "y"}\n {"text": "z"}]', "not JSON in line 3: Expecting ','"),
            ("a.json", '[{"text": "x"},\n {"text": ', "a.json is not JSON in line 2"),
            ("a.json", '[{"text": "x"}', "a.json is not JSON in line 1: Expecting ',' or ']'"),
            ("a.json", '[{"text": "x"}]\n{}', "a.json is not JSON in line 2: Extra data"),
            ("a.json", "Dear diary", r"a.json is not JSON in line 1: .*name it \.txt"),
            ("a.json", '[{"text": "x"}, {"body": "y"}]', r"object 2 has no field 'text' but the fields \['body'\]"),
            ("a.json", '["x"]', 'a.json, object 1 is "x", expected an object with a field'),
            ("a.json", "[]", "a.json is empty"),
            ("a.json", "[" * 99_999, "a.json is not JSON in line 1"),
            ("a.jsonl", '[{"text": "x"}, {"text": "y"}]', "line 1 is .*an array of .* a file named .json"),
            ("a.jsonl", '[\n{"text": "x"}\n]', "line 1 is not JSON.*an array of .* a file named .json"),
            ("a.jsonl", '{"text": null}', "line 1: 'text' is null, expected text"),
            ("a.jsonl", '{"data": [1, 2]}', r"line 1 has no field 'text' but the fields \['data'\]"),
            ("a.jsonl", '{"text": [1, 2]}', "line 1: 'text': message 1 is 1, expected {.role"),
            ("a.jsonl", '{"messages": "hi"}', "line 1: 'messages' is \"hi\", expected text or a list of messages"),
            ("a.jsonl", '{"messages": [{"content": "hi"}]}', "line 1: 'messages': message 1 is .*expected {.role"),
            (
                "a.jsonl",
                json.dumps({"messages": TURNS, "tools": [{"name": "f"}]}),
                "line 1: 'messages' comes with 'tools', which is not supported",
            ),
        ],
    )  # fmt: skip
    def test_what_is_not_a_text_in_it_is_named(self, tmp_path, name, content, message):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            documents(tmp_path / name)

    def test_an_object_without_end_is_not_read_into_memory(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        read = []
        decode = sources.decode
        monkeypatch.setattr(sources, "decode", lambda *a: (read.append(block) or block for block in decode(*a)))
        path.write_text('[{"text": "' + "x" * 10_000)
        with pytest.raises(DataError, match=r"a.json is not JSON in line 1: Unterminated string"):
            documents(path, line=100, block=50)
        assert sum(map(len, read)) < 1000


SHAPES = {
    "messages": {"messages": TURNS},
    "conversations": {
        "conversations": [
            {"from": "human", "value": TURNS[0]["content"]},
            {"from": "gpt", "value": TURNS[1]["content"]},
        ]
    },
    "alpaca": {"instruction": TURNS[0]["content"], "input": "", "output": TURNS[1]["content"]},
    "prompt": {"prompt": TURNS[:1], "completion": TURNS[1:]},
}


def their_ids(directory, turns) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))


def their_text(directory, turns) -> str:
    return str(transformers.AutoTokenizer.from_pretrained(directory).apply_chat_template(turns, tokenize=False))


class TestConversations:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("processes", [1, 2])
    def test_the_ids_are_those_of_apply_chat_template(self, chatty, tmp_path, shape, processes):
        path = tmp_path / "a.jsonl"
        path.write_text(f"{json.dumps(SHAPES[shape])}\n" * 20)
        made = prepare(
            CorpusConfig((path,), tokenizer=chatty),
            tmp_path / "tokens",
            processes,
            sizes=SIZES._replace(single_process=0),
        )
        expected = their_ids(chatty, TURNS)
        assert made.training.read(0, 10**6).tolist() == expected * (len(made.training) // len(expected))
        assert made.validation.read(0, 10**6).tolist() == expected * 2
        assert len(made.training) == 18 * len(expected)
        assert made.validation_text.decode() == 2 * their_text(chatty, TURNS)

    def test_the_name_of_a_special_token_in_a_message_is_text(self, chatty, tmp_path):
        turns = [TURNS[0] | {"content": "Is </s> here?"}, TURNS[1]]
        path = tmp_path / "a.json"
        path.write_text(json.dumps([{"messages": turns}] * 10))
        made = prepare(CorpusConfig((path,), tokenizer=chatty), tmp_path / "tokens")
        tokenizer = Tokenizer.from_pretrained(chatty)
        bos = tokenizer.bos_id
        eos = tokenizer.eos_id
        line = tokenizer.encode("\n")
        question = tokenizer.encode("user\nIs </s> here?")
        answer = tokenizer.encode("assistant\nOn the mat.")
        expected = [bos, *question, eos, *line, bos, *answer, eos, *line]
        assert made.validation.read(0, 10**6).tolist() == expected

    def test_a_system_prompt_beside_the_turns_is_the_first_message(self, chatty, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(f"{json.dumps(SHAPES['conversations'] | {'system': 'Be kind.'})}\n" * 10)
        made = prepare(CorpusConfig((path,), tokenizer=chatty), tmp_path / "tokens")
        system = {"role": "system", "content": "Be kind."}
        assert made.validation.read(0, 10**6).tolist() == their_ids(chatty, [system, *TURNS])

    def test_texts_and_conversations_may_stand_side_by_side(self, chatty, tmp_path):
        (tmp_path / "a.jsonl").write_text(f"{json.dumps({'text': VERSE})}\n{json.dumps({'messages': TURNS})}\n")
        made = prepare(CorpusConfig((tmp_path / "a.jsonl",), tokenizer=chatty), tmp_path / "tokens")
        verse = Tokenizer.from_pretrained(chatty).encode(VERSE, bos=True, eos=True)
        assert made.training.read(0, 10**6).tolist() == verse
        assert made.validation.read(0, 10**6).tolist() == their_ids(chatty, TURNS)

    def test_another_template_makes_another_corpus(self, chatty, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps([{"messages": TURNS}] * 10))
        copy = shutil.copytree(chatty, tmp_path / "copy")
        request = CorpusConfig((tmp_path / "a.json",), tokenizer=copy)
        first = prepare(request, tmp_path / "tokens").digest
        (copy / "chat_template.jinja").write_text(CHATML.replace("\n", " "))
        assert prepare(request, tmp_path / "tokens").digest != first

    @pytest.mark.parametrize("shape", SHAPES)
    def test_without_a_template_they_are_refused_with_what_to_do(self, tmp_path, shape):
        path = tmp_path / "a.jsonl"
        path.write_text(f"\n{json.dumps(SHAPES[shape])}\n")
        with pytest.raises(DataError, match=r"a.jsonl, line 2 is a conversation: .*--init-from .*--text-field"):
            prepare(CorpusConfig((path,)), tmp_path / "tokens")
        Tokenizer.train([VERSE * 30], 280).save_pretrained(tmp_path / "plain")
        with pytest.raises(DataError, match=r"plain has no chat template to render it; .*--init-from"):
            prepare(CorpusConfig((path,), tokenizer=tmp_path / "plain"), tmp_path / "tokens")

    def test_what_the_template_refuses_is_named(self, chatty, tmp_path):
        copy = shutil.copytree(chatty, tmp_path / "copy")
        (copy / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
        (tmp_path / "a.json").write_text(json.dumps([{"messages": TURNS}]))
        with pytest.raises(DataError, match=r"a.json, object 1 is a conversation: .*roles must alternate"):
            prepare(CorpusConfig((tmp_path / "a.json",), tokenizer=copy), tmp_path / "tokens")
