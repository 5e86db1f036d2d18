"""Damaged and hostile tokenizer files: each is opened, or refused with a TokenizerError, and nothing else happens."""

import base64
import copy
import json
import random
import struct

import pytest
from hypothesis import settings

from llama_scratch import Tokenizer, data
from llama_scratch.tokenizer import TokenizerError
from llama_scratch.tokenizer.sentencepiece_file import _fields

# a format: 100 in a normal run, 2000 in a thorough one
COUNT = 4 * settings.default.max_examples
TEXT = "The  quick </s> ﬁ 日本 🙂 <|eot_id|>\n 12345 \x00"
CHARSMAP = "CAAAAP///////////////w=="  # a program that reads outside itself
HOSTILE = [None, True, -1, 0, 5, 255, 2**31, 2**32 - 1, 2**32, 2**64, 10**30, 1.5, 1e308, "", "x", "a" * 5000]
HOSTILE += ["\0", "▁", "<0x41>", "</s>", "(", "(a*)*b", "Sequence", "Precompiled", "Unigram", [], [[]], {}]
HOSTILE += [["a", "b", "c"], {"type": "Lowercase"}, {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}]
NUMBERS = [0, 1, 2, 5, 127, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1]
SCORES = [struct.pack("<f", x) for x in (0.0, -1.0, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))]


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(data.python_documents()[:50], 400)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    trained.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def small_tiktoken():
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b"  ", "é".encode(), b" the", "日".encode()]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def opens(directory):
    """Whether the tokenizer there can be used in every way; False when it is refused."""
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
        ids = tokenizer.encode(TEXT, bos=True, eos=True)
        assert tokenizer.decode(ids) == "".join(tokenizer.decode_stream(ids))
        known = [*range(min(tokenizer.vocab_size, 500)), tokenizer.vocab_size - 1]
        for special in (False, True):
            tokenizer.decode(known, special=special)
        tokenizer.save_pretrained(directory / "again")
    except TokenizerError:
        return False
    return True


def change_bytes(content, dice):
    content = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at = dice.randrange(len(content) or 1)
        match dice.randrange(5) if content else 3:
            case 0:
                content[at] = dice.randrange(256)
            case 1:
                content[at] ^= 1 << dice.randrange(8)
            case 2:
                del content[at : at + dice.randrange(1, 20)]
            case 3:
                content[at:at] = dice.randbytes(dice.randrange(1, 10))
            case 4:
                content = content[: max(at, 1)]
    return bytes(content)


def change_token(content, dice):
    """Another token, of several bytes, with another rank."""
    lines = content.splitlines()
    at = dice.randrange(256, len(lines))
    token = dice.randbytes(dice.choice([0, 1, 2, 3, 20, 600]))
    lines[at] = base64.b64encode(token) + b" %d" % dice.choice([at, at, at, 0, -1, 2**64])
    return b"\n".join(lines)


def change_keys(content, dice):
    """One value of a json object replaced, removed or renamed, anywhere in it but mostly near its root."""
    whole = copy.deepcopy(content)
    at = whole
    while True:
        key = dice.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not (isinstance(at[key], dict | list) and at[key]) or dice.random() < 0.25:
            break
        at = at[key]
    match dice.randrange(4):
        case 0:
            del at[key]
        case 1 if isinstance(at, dict):
            at[dice.choice(["", "x", "type", str(key) + "s"])] = at.pop(key)
        case _:
            at[key] = dice.choice(HOSTILE)
    return json.dumps(whole).encode()


def change_fields(content, dice):
    """One field of a protocol buffer, at one of its two levels, replaced, removed or doubled."""
    fields = list(_fields(content))
    at = dice.choice([dice.randrange(len(fields)), len(fields) - 1, len(fields) - 2])  # pieces, then the settings
    number, value = fields[at]
    match dice.randrange(4):
        case 0:
            fields.pop(at)
        case 1:
            fields.append((number, value))
        case _:
            inner = list(_fields(value))
            place = dice.randrange(len(inner))
            inner[place] = (inner[place][0], hostile_field(inner[place][1], dice))
            if dice.random() < 0.3:
                inner.append((dice.randrange(1, 40), dice.choice([dice.choice(NUMBERS), dice.randbytes(20)])))
            fields[at] = (number, encode(inner))
    return encode(fields)


def hostile_field(value, dice):
    if isinstance(value, int):
        return dice.choice(NUMBERS)
    if len(value) == 4:
        return dice.choice(SCORES)
    return dice.choice([b"", b"<s>", b"a", "▁".encode(), b"a" * 5000, b"\xff", dice.randbytes(300)])


def encode(fields):
    """The protocol buffer of these fields; four bytes are a number of that size."""
    message = b""
    for number, value in fields:
        if isinstance(value, int):
            message += varint(number << 3) + varint(value)
        elif len(value) == 4:
            message += varint(number << 3 | 5) + value
        else:
            message += varint(number << 3 | 2) + varint(len(value)) + value
    return message


def varint(value):
    low = b""
    while value > 127:
        low += bytes([value & 127 | 128])
        value >>= 7
    return low + bytes([value])


def refused(name, contents, directory):
    """How many are refused; a file that stops another exception than TokenizerError is named by its number."""
    count = 0
    for number, content in enumerate(contents):
        (directory / name).write_bytes(content)
        try:
            count += not opens(directory)
        except BaseException as error:
            raise AssertionError(f"file {number} ({content[:200]!r}): {error!r}") from error
    return count


def test_sentencepiece_files_with_changed_bytes_and_fields(saved, tmp_path):
    content = (saved / "tokenizer.model").read_bytes()
    assert encode(_fields(content)) == content
    contents = [
        change(content, random.Random(i)) for i in range(COUNT // 2) for change in (change_bytes, change_fields)
    ]
    assert COUNT // 10 < refused("tokenizer.model", contents, tmp_path) < COUNT


def test_tiktoken_files_with_changed_bytes_and_tokens(small_tiktoken, tmp_path):
    changes = (change_bytes, change_token)
    contents = [change(small_tiktoken, random.Random(i)) for i in range(COUNT // 2) for change in changes]
    assert COUNT // 10 < refused("tokenizer.model", contents, tmp_path) < COUNT


@pytest.mark.parametrize("kind", ["byte fallback", "byte level"])
def test_json_files_with_changed_bytes_and_keys(kind, saved, small_tiktoken, tmp_path):
    if kind == "byte level":
        (tmp_path / "tokenizer.model").write_bytes(small_tiktoken)
        Tokenizer.from_pretrained(tmp_path).save_pretrained(saved := tmp_path)
    content = (saved / "tokenizer.json").read_bytes()
    parsed = json.loads(content)
    contents = [change_bytes(content, random.Random(i)) for i in range(COUNT // 8)]
    contents += [change_keys(parsed, random.Random(i)) for i in range(COUNT - COUNT // 8)]
    assert COUNT // 10 < refused("tokenizer.json", contents, tmp_path) < COUNT


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_settings_with_changed_bytes_and_keys(name, saved, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    parsed = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    contents = [change_bytes(json.dumps(parsed).encode(), random.Random(i)) for i in range(COUNT // 8)]
    contents += [change_keys(parsed, random.Random(i)) for i in range(COUNT // 8)]
    assert 0 < refused(name, contents, tmp_path) < COUNT // 4


BOMBS = {
    "deep": b"[" * 1_000_000,
    "deep object": b'{"a":' * 200_000,
    "a huge integer": b'{"model": %s}' % (b"9" * 10_000),
    "empty": b"",
    "a list": b"[]",
    "no UTF-8": b'{"\xff": 1}',
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_json_bombs_are_refused_by_the_name_of_their_file(name, content, saved, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}: "):
        Tokenizer.from_pretrained(tmp_path)


def with_changes(saved, tmp_path, **changes):
    """The saved tokenizer.json with other values: part__key=value."""
    content = json.loads((saved / "tokenizer.json").read_bytes())
    for path, value in changes.items():
        *parents, key = path.split("__")
        at = content
        for parent in parents:
            at = at[parent]
        at[key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path


def added(**changes):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 0, "content": "<unk>", "special": True} | flags | changes]


DOUBLES = {"type": "Replace", "pattern": {"Regex": "(?=.)"}, "content": " "}
REFUSED = {
    "a merge of unknown pieces": ({"model__merges": [["zz", "qq"]]}, "Token `zz` out of vocabulary"),
    "a merge of one piece": ({"model__merges": [["a"]]}, "refused by `tokenizers`"),
    "a panic": ({"model__continuing_subword_prefix": "####"}, "refused by `tokenizers`|continuing_subword_prefix"),
    "ids by chance": ({"model__dropout": 0.5}, "model.dropout is 0.5, expected None"),
    "another algorithm": ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "WordLevel, expected"),
    "a program": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "refused|'Precompiled'"),
    "an explosion": (
        {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}}, "normalizer writes"),
    "an explosion in steps": ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLES] * 40}}, "has 40 parts"),
    "an endless pattern": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        "refused by `tokenizers`"),
    "an unknown decoder": ({"decoder": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}},
                           "decoder is 'CTC', expected one of"),
    "no decoder": ({"decoder": None}, "the decoder is neither"),
    "an id that is not given": ({"added_tokens": added(content="new", id=9999)}, "'new' has id 9999, expected 400"),
    "an id beyond all vocabularies": ({"model__vocab": {"<unk>": 2**32 - 1}, "model__merges": [], "added_tokens": []},
                                      "4294967295, expected ids below 16777216"),
    "text that becomes special": ({"added_tokens": added(content="e", id=None)}, "refused|special"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_hostile_json_is_refused_with_the_reason(changes, message, saved, tmp_path):
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*({message})"):
        Tokenizer.from_pretrained(with_changes(saved, tmp_path, **changes))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ([(1, b"zz"), (2, struct.pack("<f", float("nan")))], "the score of piece 'zz' is nan"),
        ([(1, b"zz"), (1, 5)], "no SentencePiece model: 'int' object has no attribute 'decode'"),
        ([(1, b"z" * 513)], "a piece has 513 characters, expected at most 512"),
        ([(1, b"zz"), (3, 6)], "'zz' stands for a byte, expected <0x00>|no SentencePiece model: INTERNAL"),
        ([(1, b"\xff\xfe")], "no SentencePiece model: .*utf-8"),
    ],
)
def test_hostile_pieces_are_refused_with_the_reason(piece, message, saved, tmp_path):
    content = (saved / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(encode([(1, encode(piece)), *_fields(content)]))
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model: .*({message})"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage"])
def test_a_file_without_pieces_is_no_model(content, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: no SentencePiece model"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b" 261", b" 300", "its 262 ranks are not 0, 1, 2"),
        (b" 261", b" 260", "its 262 ranks are not 0, 1, 2"),
        (b"5pel 261", b"AA== 261", "its 262 ranks are not 0, 1, 2"),
        (b"/w== 255", b"//8= 255", "byte 0xFF has no rank"),
        (b"5pel 261", b"5pel", "expected lines of base64 and a rank"),
        (b"5pel 261", b"5p!l 261", "expected lines of base64 and a rank"),
    ],
)
def test_hostile_ranks_are_refused_with_the_reason(old, new, message, small_tiktoken, tmp_path):
    assert old in small_tiktoken
    (tmp_path / "tokenizer.model").write_bytes(small_tiktoken.replace(old, new))
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model: no tiktoken file: .*{message}"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_text_is_never_cut_or_padded(saved, tmp_path):
    """Files of fine-tuned models often keep what training cut and padded to."""
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 10_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    pad |= {"pad_type_id": 0, "pad_token": "<unk>"}
    tokenizer = Tokenizer.from_pretrained(with_changes(saved, tmp_path, truncation=cut, padding=pad))
    assert tokenizer.encode(TEXT) == Tokenizer.from_pretrained(saved).encode(TEXT)


def test_a_file_larger_than_any_tokenizer_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(10**12)  # of which the disk holds nothing
    with pytest.raises(TokenizerError, match=r"tokenizer\.json has 1000000000000 bytes, expected at most"):
        Tokenizer.from_pretrained(tmp_path)
