"""Text to batches: every token is used, none twice where once is meant, and bad input is named."""

import pytest
import torch

from llama_scratch import Tokenizer, data
from llama_scratch.loss import IGNORED


def test_files_and_folders_are_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("first")
    (tmp_path / "picture.png").write_bytes(b"\xff\xd8")
    (tmp_path / "other").write_text("third\r\n", newline="")
    assert data.read_documents([tmp_path, tmp_path / "other"]) == ["first", "second", "third\r\n"]


def test_without_paths_it_is_the_text_of_python():
    documents = data.read_documents([])
    assert len(documents) > 50
    assert sum(map(len, documents)) > 300_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "absent.txt cannot be read: No such file"),
        ("empty.txt", b"", "empty.txt is empty"),
        ("latin1.txt", b"caf\xe9 noir", "latin1.txt is not UTF-8: byte 3 is 0xe9"),
        ("folder", "make", "folder holds no text file"),
    ],
)
def test_bad_input_is_named(tmp_path, name, content, message):
    if content == "make":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        data.read_documents([tmp_path / name])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.99])
def test_the_end_is_held_out(share):
    documents = ["aaaa", "bbbbbbbbbb", "cc", "dddd"]
    training, validation = data.hold_out(documents, share)
    assert "".join(training) + "".join(validation) == "".join(documents)
    assert len("".join(validation)) == int(share * 20)
    assert all(training)
    assert all(validation)


def test_documents_stand_between_bos_and_eos():
    tokenizer = Tokenizer.train(["some words, some more words"] * 9, 270)
    tokens = data.tokenize(["some", "words"], tokenizer).tolist()
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    assert tokens == [bos, *tokenizer.encode("some"), eos, bos, *tokenizer.encode("words"), eos]


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_every_start_is_drawn_and_no_other(extra):
    context = 4
    tokens = torch.arange(context + extra)
    windows = data.random_windows(tokens, 500, context, torch.Generator().manual_seed(0))
    assert windows.shape == (500, context)
    assert set(windows[:, 0].tolist()) == set(range(extra + 1))
    assert torch.equal(windows, windows[:, :1] + torch.arange(context))


def test_too_little_text_is_said():
    with pytest.raises(data.DataError, match="3 tokens of text are fewer than the context of 4"):
        data.random_windows(torch.arange(3), 1, 4, torch.Generator())


@pytest.mark.parametrize("length", range(2, 30))
@pytest.mark.parametrize("batch", [1, 3])
def test_every_token_but_the_first_is_a_target_once(length, batch):
    targets = []
    for inputs, labels in data.all_windows(torch.arange(length), batch, context=5):
        assert torch.equal(inputs[labels != IGNORED], labels[labels != IGNORED])
        targets += [int(t) for t in labels[:, 1:].flatten() if t != IGNORED]
    assert targets == list(range(1, length))


def test_baselines():
    assert data.unigram_bits_per_byte(b"abcd" * 100) == 2.0
    assert data.xz_bits_per_byte(b"abcd" * 10_000) < 0.05
