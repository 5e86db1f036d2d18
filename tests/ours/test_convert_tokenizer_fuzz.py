"""Damaged and hostile tokenizers in GGUF files, and llama2.c's: each is converted, or refused in one line."""

import base64
import copy
import json
import random

import gguf
import pytest

from llama_scratch import Tokenizer, data
from llama_scratch.tokenizer import TokenizerError
from llama_scratch.tokenizer.gguf_tokenizer import from_gguf
from llama_scratch.tokenizer.llama2c_tokenizer import from_llama2c
from llama_scratch.tokenizer.sentencepiece_file import read_model
from tests.ours.checkpoint_writers import write_llama2c_tokenizer
from tests.ours.test_tokenizer_fuzz import COUNT, change_bytes, opens


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two tokenizers: of pieces with scores, and of bytes with merges."""
    directory = tmp_path_factory.mktemp("saved")
    Tokenizer.train(data.python_documents()[:50], 400).save_pretrained(directory / "scores")
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b"  ", "é".encode(), b" the", "日".encode()]
    ranks = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    (directory / "merges").mkdir()
    (directory / "merges" / "tokenizer.model").write_bytes(ranks)
    Tokenizer.from_pretrained(directory / "merges").save_pretrained(directory / "merges")
    return directory


def opens_converted(path):
    """Whether the tokenizer in a GGUF file, or llama2.c's, can be converted, and then be used in every way."""
    directory = path.parent / "converted"
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.*"):
        old.unlink()
    try:
        files = converted_files(path)
    except TokenizerError as error:
        message = str(error)
    else:
        for name, content in files.items():
            (directory / name).write_bytes(content)
        return opens(directory)
    assert message.startswith(str(path))
    assert message.isprintable()
    return False


def converted_files(path):
    if path.suffix == ".bin":
        return {"tokenizer.model": from_llama2c(path)}
    found = from_gguf(path)
    return found.files if found else {}


def refused_conversions(path, contents):
    count = 0
    for number, content in enumerate(contents):
        path.write_bytes(content)
        try:
            count += not opens_converted(path)
        except BaseException as error:
            raise AssertionError(f"file {number}: {error!r}") from error
    return count


def change_values(values, dice):
    """What a GGUF file holds, with some elements of its arrays, or a number, exchanged for another."""
    values = copy.deepcopy(values)
    for _ in range(dice.choice([1, 1, 3])):
        key = dice.choice(list(values))
        if not isinstance(values[key], list):
            values[key] = dice.choice(
                [0, 1, 3, 399, 400, 2**31, True, False, "", "gpt2", "llama", "llama-bpe", "default"]
            )
            continue
        at = dice.randrange(len(values[key]))
        if isinstance(values[key][at], str):
            texts = ["", " ", "x", "▁", "</s>", "<0x41>", "a" * 700, "a" * 5000, "a b", "Ġ Ġ", "\0", "日本", "\n\x1b["]
            values[key][at] = dice.choice(texts)
        elif isinstance(values[key][at], float):
            values[key][at] = dice.choice([float("nan"), float("inf"), -1e38, 0.0, 5.0])
        else:
            values[key][at] = dice.choice([-1, 0, 1, 2, 3, 4, 5, 6, 7, 2**31 - 1])
        if dice.random() < 0.1:
            del values[key][at]
    return values


def gguf_of(values, path):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in values.items():
        adders = {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        adders[type(value)](f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path.read_bytes()


def gguf_values(saved):
    """A tokenizer of pieces with scores, or of bytes with merges, as a GGUF file has it."""
    if saved.name == "scores":
        pieces = read_model((saved / "tokenizer.model").read_bytes()).pieces
        tokens, scores, types = (list(column) for column in zip(*pieces, strict=True))
        values = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types, "add_space_prefix": False}
        return values | {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True}
    content = json.loads((saved / "tokenizer.json").read_text())
    vocab = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    values = {"model": "gpt2", "pre": "llama-bpe", "tokens": [*vocab, "<s>", "<think>"], "merges": merges}
    values |= {"token_type": [1] * len(vocab) + [3, 4], "bos_token_id": len(vocab), "eos_token_id": len(vocab)}
    return values


@pytest.mark.parametrize("kind", ["scores", "merges"])
def test_gguf_files_with_changed_bytes_and_values(kind, saved, tmp_path):
    values = gguf_values(saved / kind)
    path = tmp_path / "model.gguf"
    content = gguf_of(values, path)
    assert opens_converted(path)
    contents = [change_bytes(content, random.Random(i)) for i in range(COUNT // 2)]
    contents += [gguf_of(change_values(values, random.Random(i)), path) for i in range(COUNT // 2)]
    assert COUNT // 10 < refused_conversions(path, contents) < COUNT


def test_llama2c_files_with_changed_bytes(saved, tmp_path):
    path = write_llama2c_tokenizer(tmp_path / "tokenizer.bin", (saved / "scores" / "tokenizer.model").read_bytes())
    content = path.read_bytes()
    assert opens_converted(path)
    contents = [change_bytes(content, random.Random(i)) for i in range(COUNT // 2)]
    assert COUNT // 20 < refused_conversions(path, contents) < COUNT // 2
