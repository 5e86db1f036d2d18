"""Decoding id by id: nothing broken, nothing lost, and the whole is what the libraries decode."""

import base64

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scratch import Tokenizer, data
from llama_scratch.tokenizer import TokenizerError

TEXTS = st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]))
EXAMPLES = 8 * settings.default.max_examples
# of a model trained here: the unknown token and BOS, EOS; then the 256 bytes; then pieces
FIRST_BYTE, FIRST_PIECE, SIZE = 3, 259, 400
BYTES = st.integers(FIRST_BYTE, FIRST_PIECE - 1)
# ids of which many are bytes that begin, go on with or break a character
# ids of which many are bytes that begin, go on with or break a character
ANY = st.lists(
    st.one_of(BYTES, st.integers(0, SIZE - 1), st.sampled_from([FIRST_BYTE + b for b in b"\xe2\x82\xac\xf0"]))
)


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(data.python_documents()[:50], SIZE)


@pytest.fixture(scope="module")
def library(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    trained.save_pretrained(directory)
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    """A model that puts a space in front of a text, as Llama 2's, as (ours, SentencePiece's)."""
    directory = tmp_path_factory.mktemp("spaced")
    with (directory / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(" ".join(data.python_documents()[:50]).splitlines()), model_writer=file,
            vocab_size=SIZE, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, minloglevel=2, num_threads=1)  # fmt: skip
    return (
        Tokenizer.from_pretrained(directory),
        sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model")),
    )


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A small tiktoken file, as (ours, that of `tokenizers`)."""
    directory = tmp_path_factory.mktemp("tiktoken")
    tokens = [bytes([byte]) for byte in range(256)] + [b" t", b"\xe2\x82", b"\x82\xac", b"\xf0\x9f", b"he"]
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    (directory / "tokenizer.model").write_bytes(b"".join(lines))
    tokenizer = Tokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return tokenizer, tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


@given(ids=ANY)
@settings(max_examples=EXAMPLES)
def test_the_whole_is_what_sentencepiece_decodes(trained, library, spaced, ids):
    """Of any ids, broken characters too; but special tokens, which SentencePiece lets break a character."""
    ids = [i for i in ids if i >= FIRST_BYTE]
    for ours, theirs in ((trained, library), spaced):
        assert "".join(ours.decode_stream(ids)) == ours.decode(ids) == theirs.decode(ids)


@given(ids=st.lists(st.integers(0, 270)))
@settings(max_examples=EXAMPLES)
def test_the_whole_is_what_tokenizers_decodes(byte_level, ids):
    ours, theirs = byte_level
    assert "".join(ours.decode_stream(ids)) == ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, special=True) == theirs.decode(ids, skip_special_tokens=False)


@given(text=TEXTS)
@settings(max_examples=EXAMPLES)
def test_a_stream_of_a_text_is_the_text_and_never_a_broken_character(trained, spaced, byte_level, text):
    for tokenizer in (trained, spaced[0], byte_level[0]):
        bits = list(tokenizer.decode_stream(tokenizer.encode(text, bos=True, eos=True)))
        assert "".join(bits) == text
        assert "\ufffd" in text or not any("\ufffd" in bit for bit in bits)


@given(ids=ANY)
@settings(max_examples=EXAMPLES // 4)
def test_what_has_been_streamed_is_never_taken_back(trained, spaced, ids):
    """Every beginning of a stream is a beginning of the whole: it is made without knowing the ids that follow."""
    for tokenizer in (trained, spaced[0]):
        bits = list(tokenizer.decode_stream(ids))
        assert len(bits) == len(ids) + 1
        for end in range(len(ids)):
            assert "".join(list(tokenizer.decode_stream(ids[:end]))[:-1]) == "".join(bits[:end])


def test_a_character_is_streamed_when_its_last_byte_is_there(trained):
    ids = [FIRST_BYTE + byte for byte in "€a".encode()]
    assert list(trained.decode_stream(ids)) == ["", "", "€", "a", ""]


def test_a_character_that_stays_incomplete_is_flushed_at_the_end(trained, byte_level):
    ids = [FIRST_BYTE + byte for byte in "€".encode()[:2]]
    assert list(trained.decode_stream(ids)) == ["", "", "\ufffd\ufffd"]
    assert list(byte_level[0].decode_stream([0xE2, 0x82])) == ["", "", "\ufffd"]


def test_ids_are_taken_one_by_one(trained):
    """A generator of ids is asked for the next one only after the text of the last one is out."""
    asked = []

    def ids():
        for i in trained.encode("one two"):
            asked.append(i)
            yield i

    for count, _ in enumerate(trained.decode_stream(ids()), start=1):
        assert len(asked) == min(count, len(trained.encode("one two")))


def test_the_space_in_front_is_taken_back_only_at_the_start(spaced):
    tokenizer, _ = spaced
    ids = tokenizer.encode("the the")
    assert tokenizer.decode(ids) == "the the"
    assert tokenizer.decode(ids[1:]) != "the the"
    assert tokenizer.decode([tokenizer.bos_id, *ids]) == "the the"
    assert tokenizer.decode(tokenizer.encode("  the")) == "  the"


def test_an_id_outside_the_vocabulary_stops_a_stream_where_it_stands(trained):
    stream = trained.decode_stream([FIRST_BYTE + 65, SIZE])
    assert next(stream) == "A"
    with pytest.raises(TokenizerError, match=f"id {SIZE} is outside the vocabulary of {SIZE}"):
        next(stream)
