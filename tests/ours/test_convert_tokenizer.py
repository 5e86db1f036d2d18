"""The tokenizer inside a GGUF file becomes files with the ids of the tokenizer that it was made of."""

import json
import random
import sys

import pytest
import regex
import sentencepiece
import tokenizers
import transformers
from hypothesis import settings
from safetensors.torch import load_file

from llama_scratch import Tokenizer, data
from llama_scratch.convert import ConvertConfig, convert, summary
from llama_scratch.generate import ChatTemplate, command
from llama_scratch.tokenizer import words
from llama_scratch.tokenizer.gguf_tokenizer import from_gguf
from llama_scratch.tokenizer.sentencepiece_file import read_model
from tests.ours.checkpoint_writers import made, write_gguf, write_llama2c, write_llama2c_tokenizer
from tests.ours.gguf_tokenizers import (
    CONTROL,
    ORIGINALS,
    SMALL,
    USER_DEFINED,
    byte_level,
    of_json,
    of_model,
    write,
)
from tests.ours.test_tokenizer import ODD
from tests.ours.test_tokenizer_files import WRINKLES, cases

TEXTS = [*ODD, *WRINKLES, "I'LL don't 12345 ½ x²", "a\tb\r\n\r\n  c", "héllo WÖRLD's", "١٢٣ 四五六", "!? ...\n\n\n"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A SentencePiece model that is trained here: it puts no space in front."""
    directory = tmp_path_factory.mktemp("trained")
    Tokenizer.train(data.python_documents()[:50], 500).save_pretrained(directory)
    return directory / "tokenizer.model"


@pytest.fixture(params=["trained", "tokenizers/llama2", "stories260K"])
def original(request, trained):
    """A tokenizer.model, and the flags with which a GGUF file tells it from others."""
    if request.param == "trained":
        return trained, {"add_space_prefix": False}
    path = request.getfixturevalue("shared") / request.param / "tokenizer.model"
    return path, {"remove_extra_whitespaces": True} if request.param == "stories260K" else {}


def converted(source, **options):
    """The directory that is made of `source`, and what is said about it."""
    config = ConvertConfig(source, source.parent / "converted", **options)
    return config.destination, summary(config, convert(config))


def theirs_of(source):
    return transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


def texts_of(library, count: int) -> list[str]:
    """Odd texts, and tokens in a row, where the order of merging shows."""
    dice, ids = random.Random(0), range(3, library.vocab_size)
    rows = [dice.choices(ids, k=dice.randrange(1, 12)) for _ in range(count * settings.default.max_examples)]
    return TEXTS + [library.decode(row) for row in rows]


def test_pieces_with_scores_have_sentencepieces_ids(original, tmp_path):
    path, flags = original
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    source = write(tmp_path / "model.gguf", library.vocab_size(), of_model(read_model(path.read_bytes()), **flags))
    directory, said = converted(source)
    assert f"tokenizer: tokenizer.model, tokenizer.json, tokenizer_config.json, from {source}" in said
    ours = Tokenizer.from_pretrained(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    again = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    for text in texts_of(Tokenizer.from_pretrained(path.parent), 4):
        ids = library.encode(text)
        assert ours.encode(text) == again.encode(text) == ids, ascii(text)
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == ids, ascii(text)
        assert theirs.decode(ids) == ours.decode(ids)
    assert theirs.encode("a") == [1, *library.encode("a")]
    assert (ours.bos_id, ours.eos_id, theirs.bos_token_id, theirs.eos_token_id) == (1, 2, 1, 2)


def test_transformers_reads_llama_2s_pieces_otherwise_where_a_text_begins_with_a_space(shared, tmp_path):
    """In those texts, 29 when this was written, and in no others: its Metaspace puts no space before a text that begins
    with one. SentencePiece's add_dummy_prefix puts one before every text, and so do llama.cpp and transformers 4.57.
    """
    path = shared / "tokenizers" / "llama2" / "tokenizer.model"
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    source = write(tmp_path / "model.gguf", 32000, of_model(read_model(path.read_bytes())))
    ours = Tokenizer.from_pretrained(converted(source)[0])
    theirs = theirs_of(source)
    texts = [*TEXTS, *(text for text, _ in cases(path.parent))]
    differing = []
    for text in texts:
        ids = ours.encode(text)
        assert ids == library.encode(text)
        if theirs.encode(text, add_special_tokens=False, split_special_tokens=True) != ids:
            differing.append(text)
    assert " Hello" in differing
    assert differing == [text for text in texts if text.startswith((" ", "▁"))]
    assert len(differing) >= 29


ENDS = [["<|endoftext|>", "<|im_start|>", "<|im_end|>"], []], [[], ["<|begin|>", "<|im_end|>", "<|eot_id|>"]]


@pytest.mark.parametrize(("first", "last"), ENDS, ids=["special tokens first", "special tokens last"])
@pytest.mark.parametrize("name", ORIGINALS)
def test_bytes_with_merges_have_the_originals_ids(name, first, last, tmp_path):
    """And transformers' own reading of the file has them, too."""
    library = byte_level(name, first, last)
    count = library.get_vocab_size(with_added_tokens=True)
    begin = 0 if first else count - 3
    source = write(tmp_path / "model.gguf", count, of_json(library, name, bos=begin, eos=begin + 1))
    directory, _ = converted(source)
    ours = Tokenizer.from_pretrained(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    from_file = theirs_of(source)
    library.encode_special_tokens = True
    for text in texts_of(ours, 2):
        ids = library.encode(text).ids
        for reader in (theirs, from_file):
            assert reader.encode(text, add_special_tokens=False, split_special_tokens=True) == ids, ascii(text)
            assert reader.decode(ids) == ours.decode(ids) == library.decode(ids)
        assert ours.encode(text) == ids, ascii(text)
    assert ours.vocab_size == len(theirs) == count
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id) == (begin, begin + 1)
    assert ours.special_tokens == {name: begin + i for i, name in enumerate(first + last)}
    # llama.cpp puts BOS before Llama 3's texts where the file does not say it; transformers' reading of it does not
    assert theirs.encode("a") == [begin] * (name == "llama-bpe") + library.encode("a").ids


def test_transformers_cuts_a_word_of_llama_3_that_is_a_token(tmp_path):
    """A word that no merges lead to is a token all the same in Llama 3 (ignore_merges); transformers' reading of the
    file merges only. That is all in which its ids of Llama 3's texts differ: asked once, it had in 4,123 texts exactly
    the 74 others that the original has without ignore_merges.
    """
    library = byte_level("llama-bpe", [], ["<|begin|>", "<|end|>"])
    content = json.loads(library.to_str())
    count = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {"Ġunreachable": count}
    for token in content["added_tokens"]:
        token["id"] += 1
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    source = write(tmp_path / "model.gguf", count + 3, of_json(library, "llama-bpe", bos=count + 1, eos=count + 2))
    ours = Tokenizer.from_pretrained(converted(source)[0])
    from_file = theirs_of(source)
    for text, is_one in ((" unreachable", True), (" unreachables", False)):
        ids = library.encode(text).ids
        assert (ids == [count]) == is_one
        assert ours.encode(text) == ids
        assert (from_file.encode(text, add_special_tokens=False) == ids) == (not is_one)


def test_llama_3_has_its_original_ids(shared, tmp_path):
    """transformers' own reading of the file has others (the test above), puts no BOS, and has 128257 tokens."""
    original = Tokenizer.from_pretrained(shared / "tokenizers" / "llama3")
    original.save_pretrained(tmp_path / "original")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "original" / "tokenizer.json"))
    add = of_json(library, "llama-bpe", bos=128000, eos=128009)
    source = write_gguf(tmp_path / "model.gguf", *made("tied", vocab_size=128256, **SMALL), extra=add, words=False)
    (tmp_path / "new").mkdir()
    for name, content in from_gguf(source).files.items():
        (tmp_path / "new" / name).write_bytes(content)
    ours = Tokenizer.from_pretrained(tmp_path / "new")
    for text in texts_of(original, 40) + [text for text, _ in cases(shared / "tokenizers" / "llama3")]:
        assert ours.encode(text) == original.encode(text), ascii(text)
    assert ours.special_tokens == original.special_tokens
    assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (128000, 128009, [128009, 128001, 128008])
    parsed = [json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("original", "new")]
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"):
        assert parsed[0][key] == parsed[1][key]


def test_control_tokens_outside_the_byte_alphabet_keep_their_ids(tmp_path):
    """DeepSeek's. transformers' own reading of the file gives the end an id that the model does not have."""
    library = byte_level("gpt-2", [], ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    count = library.get_vocab_size(with_added_tokens=True)
    source = write(tmp_path / "model.gguf", count, of_json(library, "gpt-2", bos=count - 2, eos=count - 1))
    ours = Tokenizer.from_pretrained(converted(source)[0])
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (count, count - 2, count - 1)
    assert ours.decode([count - 1], special=True) == "<｜end▁of▁sentence｜>"
    assert theirs_of(source).eos_token_id >= count


def test_a_special_token_that_is_one_word_is_never_read_from_a_text(tmp_path):
    """Llama 3 takes a word that is a token whole, which a special token must not be."""
    library = byte_level("llama-bpe", [], ["BEGIN", "END"])
    count = library.get_vocab_size(with_added_tokens=True)
    source = write(tmp_path / "model.gguf", count, of_json(library, "llama-bpe", bos=count - 2, eos=count - 1))
    directory, said = converted(source)
    assert f"from {source}" in said
    ours = Tokenizer.from_pretrained(directory)
    assert (ours.vocab_size, ours.eos_id) == (count, count - 1)
    assert count - 1 not in ours.encode("END")
    assert ours.decode(ours.encode("END")) == "END"


# as llama.cpp spells them (src/llama-vocab.cpp), in its own order of families
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY = r"[^\r\n\p{L}\p{N}]?\p{L}+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_CPPS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama-bpe": [SHORT + "|" + ANY + r"|\p{N}{1,3}" + REST],
    "dbrx": [SHORT + "|" + ANY + r"|\p{N}{1,3}" + REST],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9][0-9][0-9]"],
    "smollm": [r"\p{N}", GPT_2],
    "gpt-2": [GPT_2],
    "qwen2": [SHORT + "|" + ANY + r"|\p{N}" + REST],
    "viking": [r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
    "bloom": [r" ?[^(\s|.,!?…。，、।۔،)]+"],
    "tekken": [TEKKEN % ("", "", "")],
    "gpt-4o": [TEKKEN % (SHORT + "?", SHORT + "?", "{1,3}")],
    "seed-coder": [
        SHORT + "|" + ANY + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
    "minicpm5": [r"\p{N}{1,3}", SHORT + "|" + ANY + r"|\p{N}+" + REST],
}


def llama_cpps_words(name: str, text: str) -> list[str]:
    """Each pattern cuts what the one before has left: matches, and what lies between them."""
    parts = [text]
    for pattern in LLAMA_CPPS[name]:
        parts = [word for part in parts for word in regex.split(f"({pattern})", part) if word]
    return parts


@pytest.mark.parametrize("name", LLAMA_CPPS)
def test_words_are_cut_as_llama_cpp_cuts_them(name):
    content = {"type": "BPE", "vocab": {}, "merges": []}
    part = words.pre_tokenizer(name)
    library = tokenizers.Tokenizer.from_str(json.dumps({"model": content, "pre_tokenizer": part, "added_tokens": []}))
    texts = [*TEXTS, *data.python_documents()[:3], "`a`=$b+1<2^3~|c`", "x.y, z! (p|q) …", "12 345 6789 x10²", "ab\n\n"]
    for text in texts:
        spans = [span for _, span in library.pre_tokenizer.pre_tokenize_str(text)]
        assert [text[start:end] for start, end in spans] == llama_cpps_words(name, text), ascii(text)


def test_every_family_of_names_is_compared_with_llama_cpps():
    assert {words.PATTERNS[name] for name in LLAMA_CPPS} == set(words.PATTERNS.values())
    assert len(words.PATTERNS) == sum(len(names.split()) for _, names in words.FAMILIES)


def test_user_defined_tokens_are_found_in_a_text(trained, tmp_path):
    model = read_model(trained.read_bytes())
    pieces = [*model.pieces, ("<think>", -1000.0, USER_DEFINED), ("<|im_end|>", -1000.0, CONTROL)]
    whole = type(model)([type(model.pieces[0])(*piece) for piece in pieces], *list(vars(model).values())[1:])
    source = write(tmp_path / "model.gguf", len(pieces), of_model(whole, add_space_prefix=False))
    directory, _ = converted(source)
    ours = Tokenizer.from_pretrained(directory)
    plain = Tokenizer.from_pretrained(trained.parent)
    thought = [*plain.encode("a "), 500, *plain.encode(" b"), *plain.encode("<|im_end|>")]
    assert ours.encode("a <think> b<|im_end|>") == thought
    assert ours.decode(thought) == "a <think> b<|im_end|>"
    assert ours.special_tokens["<|im_end|>"] == 501
    for reader in (transformers.AutoTokenizer.from_pretrained(directory), theirs_of(source)):
        assert reader.encode("a<think>b<|im_end|>", add_special_tokens=False)[-3:] == [500, *plain.encode("b"), 501]


@pytest.mark.parametrize(("bos", "eos"), [(None, None), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("kind", ["scores", "merges"])
def test_bos_and_eos_go_where_the_file_says(kind, bos, eos, trained, tmp_path):
    flags = {f"add_{name}_token": value for name, value in (("bos", bos), ("eos", eos)) if value is not None}
    if kind == "scores":
        add = of_model(read_model(trained.read_bytes()), add_space_prefix=False)
        count = 500
        begin = 1
    else:
        library = byte_level("gpt-2", ["<|a|>", "<s>", "</s>"], [])
        add = of_json(library, "gpt-2", bos=1, eos=2)
        count = library.get_vocab_size()
        begin = 1

    def say(writer):
        for name, value in flags.items():
            writer.add_bool(f"tokenizer.ggml.{name}", value)

    directory, _ = converted(write(tmp_path / "model.gguf", count, add, say))
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    middle = library.encode("a").ids if kind == "merges" else Tokenizer.from_pretrained(trained.parent).encode("a")
    starts = [begin] if bos or (bos is None and kind == "scores") else []
    assert theirs.encode("a") == starts + middle + ([begin + 1] if eos else [])
    if kind == "merges":  # transformers' own reading of the file puts a space in front of pieces, whatever that says
        assert theirs.encode("a") == theirs_of(tmp_path / "model.gguf").encode("a")
    assert theirs.encode("a", "a") == 2 * theirs.encode("a")


def test_a_converted_model_writes_the_published_story(shared, tmp_path, monkeypatch, capsys):
    """stories260K as GGUF, and as llama2.c has it: the model file and the tokenizer's, whatever that is called."""
    config = json.loads((shared / "stories260K" / "config.json").read_text())
    config = {"rope_parameters": {"rope_theta": config.get("rope_theta", 10000.0)}, "head_dim": 8} | config
    state = load_file(shared / "stories260K" / "model.safetensors")
    content = (shared / "stories260K" / "tokenizer.model").read_bytes()
    add = of_model(read_model(content))
    known = json.loads((shared / "known_answers.json").read_text())["known_answers"][0]["expected_text"]
    sources = [write_gguf(tmp_path / "gguf" / "stories.gguf", config, state, extra=add, words=False)]
    for name in ("tokenizer.bin", "tok512.bin"):
        sources.append(write_llama2c(tmp_path / name.replace(".", "_") / "stories.bin", config, state))
        write_llama2c_tokenizer(sources[-1].with_name(name), content)
    for source in sources:
        directory, _ = converted(source)
        options = ["--prompt", "Once upon a time", "--temperature", "0", "--max-new-tokens", "60"]
        monkeypatch.setattr(sys, "argv", ["generate", str(directory), *options])
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert not ended.value.code
        assert len(out := capsys.readouterr().out.removesuffix("\n")) > 100
        assert known.startswith("Once upon a time" + out)


@pytest.mark.parametrize("named", [False, True], ids=["one template", "several by name"])
def test_a_converted_model_chats(named, tmp_path, monkeypatch, capsys):
    library = byte_level("smollm", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [])
    count = library.get_vocab_size()
    several = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "{{ tools }}"}]

    def template(writer):
        writer.add_chat_template(several if named else TEMPLATE)

    source = write(tmp_path / "model.gguf", count, of_json(library, "smollm", bos=1, eos=2), template)
    directory, _ = converted(source)
    messages = [{"role": "user", "content": "The 42 ways"}]
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ids = theirs.apply_chat_template(messages, return_dict=False)
    assert ids[:2] == [1, *library.encode("user").ids][:2]
    chat = ChatTemplate.from_pretrained(directory, Tokenizer.from_pretrained(directory))
    assert chat.encode(messages) == ids == theirs_of(source).apply_chat_template(messages, return_dict=False)
    monkeypatch.setattr(sys, "argv", ["generate", str(directory), "--chat", "--prompt", "Hi", "--max-new-tokens", "3"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert not ended.value.code, capsys.readouterr().err


def string_array(*strings: str):
    return lambda w, key: w.add_array(key, list(strings))


BAD = {
    "an unknown model": ("model", lambda w, k: w.add_string(k, "t5"), "is 't5', expected 'llama' or 'gpt2'"),
    "a model that is no text": ("model", lambda w, k: w.add_uint32(k, 7), "is 7, expected a text"),
    "an unknown way to cut": ("pre", lambda w, k: w.add_string(k, "kimi-k2"), "is 'kimi-k2', expected one of a.x-4.0,"),
    "an id outside": ("bos_token_id", lambda w, k: w.add_uint32(k, 700), "is 700, expected an id below 700"),
    "a flag that is none": ("add_bos_token", lambda w, k: w.add_uint32(k, 1), "is 1, expected true or false"),
    "too few types": ("token_type", lambda w, k: w.add_array(k, [1, 2]), "has 2 elements, expected 700"),
    "an unknown type": ("token_type", lambda w, k: w.add_array(k, [9] * 700), "has 9, expected 0 to 6"),
    "types that are texts": ("token_type", string_array(*["x"] * 700), "has 'x' at 0, of another type than expected"),
    "the same token twice": ("tokens", string_array(*["x"] * 700), "has 'x' twice, at 0 and 1"),
    "a merge of one": ("merges", string_array("ab"), "has 'ab', expected two tokens with a space between them"),
    "a merge of unknown tokens": ("merges", string_array("zzz qqq"), "refused by `tokenizers`: .*zzz"),
    "no array": ("tokens", lambda w, k: w.add_string(k, "abc"), "is 'abc', expected an array"),
}


@pytest.mark.parametrize(("name", "add", "message"), BAD.values(), ids=BAD)
def test_weights_are_converted_where_the_tokenizer_cannot_be(name, add, message, tmp_path):
    library = byte_level("gpt-2", ["<|a|>", "<s>", "</s>"], [])
    original = of_json(library, "gpt-2", bos=1, eos=2)

    def changed(writer):
        """The package's writer refuses a key that is there twice."""
        original(writer)
        writer.kv_data[0].pop(f"tokenizer.ggml.{name}", None)
        add(writer, f"tokenizer.ggml.{name}")

    source = write(tmp_path / "model.gguf", 700, changed)
    directory, said = converted(source)
    [line] = [line for line in said.splitlines() if line.startswith("no tokenizer: ")]
    assert regex.search(message if "`" in message else regex.escape(message), line), line
    assert str(source) in line
    assert line.endswith("; give one with --tokenizer, a file or a directory")
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors"]  # fmt: skip


def test_a_tokenizer_beside_a_gguf_file_serves_where_there_is_none_inside(tmp_path):
    source = write(tmp_path / "model.gguf", 700)
    directory, said = converted(source)
    assert f"no tokenizer: {source} has none inside: tokenizer.ggml.model is missing; give one with" in said
    Tokenizer.train(data.python_documents()[:50], 400).save_pretrained(tmp_path)
    directory.rename(tmp_path / "first")
    directory, said = converted(source)
    assert f"tokenizer: tokenizer.model, tokenizer.json, tokenizer_config.json, from {tmp_path}" in said
    assert Tokenizer.from_pretrained(directory).vocab_size == 400


def test_a_missing_name_of_a_pre_tokenizer_is_said(tmp_path):
    library = byte_level("gpt-2", ["<|a|>", "<s>", "</s>"], [])
    directory, said = converted(write(tmp_path / "model.gguf", 700, of_json(library, None, bos=1, eos=2)))
    assert "tokenizer.ggml.pre is missing: words are cut as llama.cpp's 'default' cuts them" in said
    assert Tokenizer.from_pretrained(directory).decode(library.encode("a 123").ids) == "a 123"
