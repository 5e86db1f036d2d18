"""The tokenizer that is trained here: lossless, and the same ids in transformers."""

import re

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scratch import Tokenizer, data
from llama_scratch.tokenizer import TokenizerError, training

ODD = [
    "", " ", "  ", "   a", "a   ", "  a  b  ", "a", " a", "\n", "\n\n\n", "a\nb\n", "\t", "a\tb", " \t \n ", "\r\n",
    "\x00", "\x07bell", "</s>", "<s>", "<unk>", "<s>a</s>", " </s> ", "<0x41>", "<0x0A>", "[INST] hi [/INST]",
    "the", "The quick brown fox", "def f(x):\n    return x + 1\n", "1234567890", "3.14159", "a" * 300, "-" * 80,
    "é", "e\u0301", "ﬁ", "①", "İstanbul", "ß", "Ω≈ç√∫", "日本語のテキスト", "中文", "한국어", "العربية", "हिन्दी",
    "🙂", "👩‍👩‍👧", "🇩🇪", "\u00a0", "\u200b", "\ufeff", "\ue000", "\U0010ffff", "\ud7ff", "a\u2028b",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(data.python_documents(), 512)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_transformers_gives_the_same_ids_and_text(tokenizer, theirs, text):
    ids = tokenizer.encode(text)
    assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
    assert theirs.decode(ids) == tokenizer.decode(ids) == text


def test_transformers_gives_the_same_ids_for_a_long_text(tokenizer, theirs):
    text = "\n\n".join(data.python_documents()[:10])
    ids = tokenizer.encode(text)
    assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids
    assert tokenizer.decode(ids) == text


def test_transformers_adds_the_same_bos(tokenizer, theirs):
    assert theirs.encode("a b") == tokenizer.encode("a b", bos=True)


@given(text=st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
@settings(max_examples=20 * settings.default.max_examples)
def test_is_lossless(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_only_u2581_is_lost_and_it_becomes_a_space(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a b"


def test_special_tokens_come_only_when_asked_for(tokenizer):
    assert tokenizer.encode("a", bos=True, eos=True) == [tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.eos_id]
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(tokenizer.encode("<s>a</s>"))
    assert tokenizer.decode(tokenizer.encode("a", bos=True, eos=True)) == "a"


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.vocab_size == tokenizer.vocab_size == 512
    assert (loaded.bos_id, loaded.eos_id, loaded.stop_ids) == (tokenizer.bos_id, tokenizer.eos_id, [tokenizer.eos_id])
    assert loaded.special_tokens == tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    loaded.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_saved_model_is_sentencepieces(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ODD:
        assert library.encode(text) == tokenizer.encode(text)


def test_training_from_a_stream_keeps_no_more_than_its_sample():
    held = []

    def stream():
        for i in range(3000):
            held.append(1)
            yield f"word{i % 30} " * 3

    sample = training.sample(stream(), 100)
    assert len(held) == 3000
    assert len(sample) == 100
    model = training.train_model(stream(), 275, sample_size=100)
    assert sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size() == 275


def test_a_sample_is_drawn_from_all_of_a_stream_evenly():
    """Of 10,000 each is kept with probability 0.1: every tenth of the stream has 100 ± 10 of the 1000 kept."""
    sample = [int(item) for item in training.sample(map(str, range(10_000)), 1000)]
    assert len(set(sample)) == 1000
    for tenth in range(10):
        assert 60 < sum(item // 1000 == tenth for item in sample) < 140


def test_a_short_stream_is_learned_from_whole_and_in_order():
    assert training.sample(iter("abc"), 3) == ["a", "b", "c"]


def test_long_documents_are_learned_from_too():
    """SentencePiece drops long inputs silently: a word that stands only in one must still become a piece."""
    text = "x " * 5000 + "supercalifragilistic " * 200
    assert len(Tokenizer.train([text], 300).encode("supercalifragilistic")) < 5


@pytest.mark.parametrize(
    ("wrong", "kind"), [(-3, "least"), (0, "least"), (100, "least"), (270, "least"), (5000, "most"), (10**10, "most")]
)
def test_a_vocabulary_that_cannot_be_is_answered_with_the_one_that_can(wrong, kind):
    """The number named is a size that can be learned, and the next one outwards is not."""
    text = ["The cat sat on the mat.\n  The dog did not.\n\n" * 30]
    with pytest.raises(TokenizerError, match=f"--vocab-size is {wrong}, expected at {kind} ") as refused:
        Tokenizer.train(text, wrong)
    assert ".cc" not in str(refused.value)
    named = int(re.search(rf"expected at {kind} (\d+)", str(refused.value))[1])
    assert Tokenizer.train(text, named).vocab_size == named
    with pytest.raises(TokenizerError, match=f"expected at {kind} {named}"):
        Tokenizer.train(text, named - 1 if kind == "least" else named + 1)


def test_what_a_vocabulary_must_hold_is_counted():
    with pytest.raises(TokenizerError, match="expected at least 264: 256 bytes, 3 special tokens and the 5 characters"):
        Tokenizer.train(["abcde" * 100], 259)


def test_errors_name_the_file_and_the_reason(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match=r"tokenizer\.model (cannot be read: No such file|is missing)"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"garbage")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: no SentencePiece model"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="there is no text to learn a tokenizer from"):
        Tokenizer.train([], 300)
    for wrong in (512, -1):
        with pytest.raises(TokenizerError, match=f"id {wrong} is outside the vocabulary of 512"):
            tokenizer.decode([5, wrong])
    with pytest.raises(TokenizerError, match=r"character 1 of the text is '\\ud800', a surrogate"):
        tokenizer.encode("a\ud800")
