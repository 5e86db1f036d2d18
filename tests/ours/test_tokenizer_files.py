"""Tokenizers as they are found: Llama 2's, Llama 3's, those of fine-tuned models; and what we make of them."""

import base64
import io
import itertools
import json
import random

import pytest
import regex
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_scratch import Tokenizer, data
from llama_scratch.tokenizer import TokenizerError

# copied from meta-llama/llama-models, models/llama3/tokenizer.py, and not from what is tested
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WRINKLES = ["", " ", "  ", " Hello", "  Hello", "a\n  b", " \n ", "a  b   c    d", " " * 100, "\n" + " " * 33 + "x",
            "▁a ▁", "<s>a</s>", "</s>", "<unk>", "<0x41>", "<|eot_id|>", "İ 日本 🙂 \x00"]  # fmt: skip


@pytest.fixture(scope="module")
def llama2(shared):
    return Tokenizer.from_pretrained(shared / "tokenizers" / "llama2")


@pytest.fixture(scope="module")
def llama3(shared):
    return Tokenizer.from_pretrained(shared / "tokenizers" / "llama3")


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(data.python_documents()[:50], 400)


def cases(directory):
    """llama.cpp's: texts between lines of __ggml_vocab_test__, ids without BOS a line."""
    texts = (directory / "cases.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in (directory / "cases.out").read_text().split("\n")[: len(texts)]]
    assert len(texts) == len(ids) == 47
    return zip(texts, ids, strict=True)


@pytest.mark.parametrize("name", ["llama2", "llama3"])
def test_llama_cpps_47_cases(name, shared, request):
    tokenizer = request.getfixturevalue(name)
    for text, ids in cases(shared / "tokenizers" / name):
        assert tokenizer.encode(text) == ids, ascii(text)
        assert tokenizer.decode(ids) == text


def test_published_ids(shared, llama2, llama3):
    known = json.loads((shared / "known_answers.json").read_text())
    assert (len(known["llama2_tokenizer"]["cases"]), len(known["llama3_tokenizer"]["cases"])) == (16, 1)
    for case in known["llama2_tokenizer"]["cases"]:
        assert llama2.encode(case["text"], bos=True) == case["ids"], case
    for case in known["llama3_tokenizer"]["cases"]:
        assert llama3.encode(case["text"], bos=case["bos"], eos=case["eos"]) == case["ids"], case


def test_the_ids_that_llamas_documentation_names(llama2, llama3):
    assert (llama2.vocab_size, llama2.bos_id, llama2.eos_id, llama2.stop_ids) == (32000, 1, 2, [2])
    assert (llama3.vocab_size, llama3.bos_id, llama3.eos_id) == (128256, 128000, 128001)
    assert llama3.stop_ids == [128001, 128008, 128009]
    names = {"<|start_header_id|>": 128006, "<|end_header_id|>": 128007, "<|eot_id|>": 128009, "<|python_tag|>": 128010}
    assert names.items() <= llama3.special_tokens.items()
    assert llama3.special_tokens["<|reserved_special_token_247|>"] == 128255


@pytest.mark.parametrize("name", ["llama2", "llama3"])
def test_what_we_save_gives_transformers_the_same_ids(name, shared, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    source = (shared / "tokenizers" / name / "tokenizer.model").read_bytes()
    assert (tmp_path / "tokenizer.model").read_bytes() == source
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [text for text, _ in cases(shared / "tokenizers" / name)] + WRINKLES:
        ids = tokenizer.encode(text, bos=True)
        assert theirs.encode(text, split_special_tokens=True) == ids, ascii(text)
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert theirs.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("name", ["tokenizers/llama2", "stories260K"])
def test_a_converted_sentencepiece_model_has_the_same_ids_of_awkward_texts(name, shared, tmp_path):
    """Runs of spaces, parts of pieces, one letter over and over: where the order of merging shows."""
    library = sentencepiece.SentencePieceProcessor(model_file=str(shared / name / "tokenizer.model"))
    Tokenizer.from_pretrained(shared / name).save_pretrained(tmp_path)
    converted = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pieces = [library.id_to_piece(i).replace("▁", " ") for i in range(259, library.vocab_size())]
    dice = random.Random(0)
    for _ in range(16 * settings.default.max_examples):
        piece = dice.choice(pieces)
        parts = dice.choice([pieces, " ab\n", [" "], [piece[:1], piece[1:], piece[-1:], piece], "▁ é日🙂"])
        text = dice.choice(["", "a", "\n"]) + "".join(dice.choice(parts) for _ in range(dice.randrange(40)))
        assert converted.encode(text, add_special_tokens=False).ids == library.encode(text), ascii(text)


def small_tiktoken():
    words = ["th", "the", " the", "  ", "   ", "é", "日", "<|", "eot", "abc", "ab", "bc", "12", "123"]
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiktoken")
    (directory / "tokenizer.model").write_bytes(small_tiktoken())
    return Tokenizer.from_pretrained(directory)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=4 * settings.default.max_examples)
def test_a_tiktoken_file_is_lossless(byte_level, text):
    assert byte_level.decode(byte_level.encode(text)) == text


def tiktokens_ids(ranks, text):
    """What tiktoken does: in each word, the neighbours whose union has the lowest rank are merged, first come first."""
    ids = []
    for word in regex.findall(WORDS, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while word.encode() not in ranks or len(parts) > 1:
            if word.encode() in ranks:
                parts = [word.encode()]
                break
            unions = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
            if not unions or min(unions) == len(ranks):
                break
            at = unions.index(min(unions))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_a_tiktoken_file_has_tiktokens_ids(shared, llama3):
    lines = (shared / "tokenizers" / "llama3" / "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    tokens = [token.decode(errors="ignore") for token in ranks]
    dice = random.Random(0)
    for _ in range(8 * settings.default.max_examples):
        parts = dice.choice([tokens, tokens, " ab\n", "12", "aAé日🙂'st1 \t"])
        text = "".join(dice.choice(parts) for _ in range(dice.randrange(30)))
        assert llama3.encode(text) == tiktokens_ids(ranks, text), ascii(text)


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "a</s>b", "<|eot_id|>", "<|begin_of_text|>", "x <|eot_id|>"])
def test_special_tokens_in_a_text_are_text(text, trained, byte_level):
    for tokenizer in (trained, byte_level):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(tokenizer.special_tokens.values())
        assert tokenizer.decode(ids) == text


def test_special_tokens_are_written_when_asked_for(trained, byte_level):
    for tokenizer, names in ((trained, "<s>x</s>"), (byte_level, "<|begin_of_text|>x<|end_of_text|>")):
        ids = tokenizer.encode("x", bos=True, eos=True)
        assert (tokenizer.decode(ids), tokenizer.decode(ids, special=True)) == ("x", names)


def write(directory, **files):
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_tokenizer_json_wins_because_it_knows_the_added_tokens(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][2], "id": 400, "content": "<|im_end|>"})
    write(tmp_path, tokenizer=content)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert (trained.vocab_size, loaded.vocab_size) == (400, 401)
    assert loaded.special_tokens["<|im_end|>"] == 400
    assert not {400} & set(loaded.encode("a<|im_end|>"))


def test_tokenizer_config_names_the_ends_and_makes_them_special(trained, tmp_path):
    """As Llama 3 Instruct does, and fine-tuned models whose tokenizer.json takes its own end for a word."""
    trained.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][2], "id": 400, "content": "<end>", "special": False})
    write(tmp_path, tokenizer=content, tokenizer_config={"eos_token": {"content": "<end>"}, "bos_token": None})
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.stop_ids) == (None, 400, [400])
    assert loaded.encode("a<end>", bos=True, eos=True) == [*loaded.encode("a<end>"), 400]
    assert 400 not in loaded.encode("a<end>")
    assert loaded.decode([400]) == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config", {"eos_token": "<none>"}, "eos_token is '<none>', expected one of the tokens"),
        ("tokenizer_config", {"bos_token": 1}, "bos_token is 1, expected a token"),
    ],
)
def test_settings_that_cannot_be_name_their_file(name, content, message, trained, tmp_path):
    trained.save_pretrained(tmp_path)
    write(tmp_path, **{name: content})
    with pytest.raises(TokenizerError, match=rf"{name}\.json: {message}"):
        Tokenizer.from_pretrained(tmp_path)


def test_saving_keeps_the_settings_but_no_code(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(
        tmp_path, tokenizer_config=config | {"chat_template": "{{ x }}", "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    )
    Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new/tokenizer_config.json").read_text()) == config | {"chat_template": "{{ x }}"}


def test_saving_over_another_tokenizer_leaves_none_of_its_files(trained, byte_level, tmp_path):
    byte_level.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    of_json_only = Tokenizer.from_pretrained(tmp_path)
    trained.save_pretrained(tmp_path / "new")
    of_json_only.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new/tokenizer.model").exists()
    assert Tokenizer.from_pretrained(tmp_path / "new").encode("the") == byte_level.encode("the")


def test_a_unigram_model_is_left_to_transformers(tmp_path):
    """No tokenizer.json has its ids, so none is written, and one that is there goes."""
    file = io.BytesIO()
    texts = iter(data.python_documents()[:20])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=texts, model_writer=file, vocab_size=500, minloglevel=2,
                                             byte_fallback=True, num_threads=1, max_sentence_length=10**6)  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(file.getvalue())
    loaded = Tokenizer.from_pretrained(tmp_path)
    write(tmp_path, tokenizer={})
    loaded.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert Tokenizer.from_pretrained(tmp_path).encode("the words") == loaded.encode("the words")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).vocab_size == 500
