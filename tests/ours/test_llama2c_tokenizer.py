"""llama2.c's tokenizer.bin has the ids of the SentencePiece model that it was exported from."""

import json
import struct

import pytest
import sentencepiece
import transformers

from llama_scratch import Tokenizer
from llama_scratch.convert import ConvertConfig, convert, summary
from llama_scratch.tokenizer import TokenizerError
from tests.ours.checkpoint_writers import made, write_gguf, write_llama2c, write_llama2c_tokenizer
from tests.ours.gguf_tokenizers import SMALL
from tests.ours.test_tokenizer import ODD
from tests.ours.test_tokenizer_files import WRINKLES, cases


@pytest.mark.parametrize("name", ["stories260K", "tokenizers/llama2"])
def test_ids_are_those_of_the_model_it_was_exported_from(name, shared, tmp_path):
    """Spaces, too: stories260K's model removes repeated ones, Llama 2's keeps them, and the file does not say it."""
    content = (shared / name / "tokenizer.model").read_bytes()
    library = sentencepiece.SentencePieceProcessor(model_proto=content)
    sizes = SMALL | {"vocab_size": library.vocab_size()}
    source = write_llama2c(tmp_path / "model.bin", *made("tied", **sizes))
    write_llama2c_tokenizer(tmp_path / "tokenizer.bin", content)
    convert(ConvertConfig(source, tmp_path / "new"))
    ours = Tokenizer.from_pretrained(tmp_path / "new")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    texts = ODD + WRINKLES
    if name == "tokenizers/llama2":
        texts = texts + [text for text, _ in cases(shared / name)]
        known = json.loads((shared / "known_answers.json").read_text())["llama2_tokenizer"]["cases"]
        assert [ours.encode(case["text"], bos=True) for case in known] == [case["ids"] for case in known]
    for text in texts:
        ids = library.encode(text)
        assert ours.encode(text) == ids, ascii(text)
        assert theirs.encode(text, split_special_tokens=True) == [1, *ids], ascii(text)
        assert ours.decode(ids) == theirs.decode(ids)
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (library.vocab_size(), 1, 2)
    assert ours.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}


@pytest.fixture
def source(tmp_path):
    return write_llama2c(tmp_path / "models" / "model.bin", *made("tied", vocab_size=512, **SMALL))


@pytest.fixture
def tokenizer_bin(shared, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    content = (shared / "stories260K" / "tokenizer.model").read_bytes()
    return write_llama2c_tokenizer(tmp_path / "elsewhere" / "words.bin", content)


def test_it_may_lie_elsewhere_and_be_of_any_kind(source, tokenizer_bin, shared, tmp_path):
    text = "Once upon  a time"
    ids = Tokenizer.from_pretrained(shared / "stories260K").encode(text)
    directory = shared / "stories260K"
    for i, chosen in enumerate([tokenizer_bin, directory / "tokenizer.model", directory]):
        config = ConvertConfig(source, tmp_path / f"new {i}", tokenizer=chosen)
        assert f"from {chosen}" in summary(config, convert(config))
        assert Tokenizer.from_pretrained(config.destination).encode(text) == ids
    gguf = write_gguf(tmp_path / "model.gguf", *made("tied", vocab_size=512, **SMALL))
    convert(ConvertConfig(gguf, tmp_path / "of gguf", tokenizer=tokenizer_bin))
    assert Tokenizer.from_pretrained(tmp_path / "of gguf").encode(text) == ids


def test_without_one_the_weights_are_converted_and_it_is_said(source, tmp_path):
    config = ConvertConfig(source, tmp_path / "new")
    said = summary(config, convert(config)).splitlines()
    beside = "none of tokenizer.json, tokenizer.model, tok512.bin, tokenizer.bin is next to"
    assert said[-1] == f"no tokenizer: {beside} {source}; give one with --tokenizer, a file or a directory"
    assert not list((tmp_path / "new").glob("tokenizer*"))


def test_another_models_tokenizer_is_not_taken(source, shared, tmp_path):
    """llama2.c's own folder has Llama 2's tokenizer.model and tokenizer.bin, whatever model is trained there."""
    content = (shared / "tokenizers" / "llama2" / "tokenizer.model").read_bytes()
    (source.parent / "tokenizer.model").write_bytes(content)
    write_llama2c_tokenizer(source.parent / "tokenizer.bin", content)
    config = ConvertConfig(source, tmp_path / "new")
    said = summary(config, convert(config)).splitlines()[-1]
    assert f"{source.parent} has 32000 tokens, but the model 512: it is another model's" in said
    assert f"{source.parent / 'tokenizer.bin'} has 32000 tokens" in said
    assert not list((tmp_path / "new").glob("tokenizer*"))


DAMAGED = {
    "nothing": (lambda _: b"", "there are 0 tokens in it, expected llama2.c's tokenizer.bin"),
    "half an entry": (lambda content: content + b"\0\0\0", "it ends at byte [0-9]+, inside the entry of token 512"),
    "a length beyond the end": (lambda content: content + struct.pack("<fi", 0, 9), "token 512 has 9 bytes, expected"),
    "a negative length": (lambda content: content + struct.pack("<fi", 0, -9), "token 512 has -9 bytes, expected 1"),
    "no UTF-8": (lambda content: content + struct.pack("<fi", 0, 1) + b"\xff", "token 512 is not UTF-8: invalid start"),
    "no number": (lambda content: content + struct.pack("<fi", float("nan"), 1) + b"~", "score .* is nan|defined"),
    "no tokenizer": (lambda _: b"\x89PNG" * 30, "token 0 has [0-9-]+ bytes, expected 1 to 2048"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_chosen_one_that_cannot_be_read_is_an_error(change, message, source, tokenizer_bin, tmp_path):
    tokenizer_bin.write_bytes(change(tokenizer_bin.read_bytes()))
    with pytest.raises(TokenizerError, match=rf"words\.bin: .*({message})"):
        convert(ConvertConfig(source, tmp_path / "new", tokenizer=tokenizer_bin))
    assert not (tmp_path / "new").exists()
