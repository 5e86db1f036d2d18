"""The tokenizer inside a GGUF file -> the files of a Hugging Face directory, with the same ids.

Pieces with scores (`tokenizer.ggml.model` "llama") are those of a SentencePiece model, which is written again together
with a tokenizer.json; bytes with merges ("gpt2") become a tokenizer.json. Control tokens become special tokens.
User-defined tokens are matched in a text, and what follows one is encoded like a new text, with a space before it if
the tokenizer adds one, as in llama.cpp. Where transformers 5.23 opens the same file with other ids than the original
tokenizer, the original is followed, as llama.cpp does, whose format this is: asked once (/tokenize, by xllamacpp
2026.10), it gave the original's ids of all 123 texts for Llama 2 and of all 4,123 for Llama 3. transformers 5.23

- adds no space to a text that begins with one (29 of the 123 texts), where SentencePiece, llama.cpp and transformers
  4.57 add one to every text; and it adds one to all others whatever `tokenizer.ggml.add_space_prefix` says;
- ignores that Llama 3 takes a word that is a token as a whole (llama.cpp's `ignore_merges`; 74 of the 4,123 texts), and
  adds no BOS unless the file asks for it, which llama.cpp does for "llama-bpe";
- skips control tokens such as DeepSeek's "<｜end▁of▁sentence｜>", which then have ids outside the model;
- splits words like GPT-2 for an unknown name of a pre-tokenizer, for instance "smollm".

The file does not say whether a SentencePiece model removes repeated spaces, unless it has a key that llama.cpp writes
for other models; by default they are kept, as in llama.cpp.

ggml-org/llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from llama_scratch.tokenizer import conversion, words
from llama_scratch.tokenizer.files import TokenizerError, naming
from llama_scratch.tokenizer.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from llama_scratch.tokenizer.sentencepiece_file import SPACE, Model, VocabEntry, read_model, read_processor
from llama_scratch.tokenizer.sentencepiece_writer import write_model

JSON, MODEL, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"
SPACES = "remove_extra_whitespaces"
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
ENDS = {"bos": 1, "eos": 2, "unk": 0}  # defaults of a SentencePiece model


class Converted(NamedTuple):
    """The files by name, and remarks on what was assumed, one line each."""

    files: dict[str, bytes]
    remarks: list[str]


def from_gguf(path: Path) -> Converted | None:
    """Convert the tokenizer in a GGUF file; None if it has none. Raises TokenizerError naming file and key."""
    vocabulary = read_vocabulary(path)
    if vocabulary is None:
        return None
    with naming(path):
        if vocabulary.model == "llama":
            return _from_scores(vocabulary)
        if vocabulary.model == "gpt2":
            return _from_merges(vocabulary)
        raise TokenizerError(f"{PREFIX}model is {vocabulary.model[:80]!r}, expected 'llama' or 'gpt2'")


def _from_scores(vocabulary: Vocabulary) -> Converted:
    if not vocabulary.scores:
        raise TokenizerError(f"{PREFIX}scores is missing")
    count = len(vocabulary.tokens)
    ids = {name: i for name, i in ENDS.items() if i < count} | vocabulary.ids
    model = _sentencepiece(vocabulary, ids)
    content = write_model(model, ids.get("bos", -1), ids.get("eos", -1), ids["unk"], ids.get("pad", -1))
    read_processor(content)  # the library's own checks
    read_model(content)
    starts, ends = _starts_and_ends(vocabulary, ids, True)
    files = {MODEL: content}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if _is_convertible(model):
        whole = json.loads(conversion.from_sentencepiece(model, [], []))
        whole["added_tokens"] = _added(vocabulary, [piece.kind for piece in model.pieces])
        whole["post_processor"] = _post_processor(vocabulary.tokens, starts, ends)
        files[JSON] = _json(whole)
    else:  # transformers makes its own of tokenizer.model then
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_prefix_space": model.adds_a_space}
        settings |= {"add_bos_token": bool(starts), "add_eos_token": bool(ends)}
    return Converted(files | _settings(vocabulary, ids, settings), _spaces(vocabulary))


def _spaces(vocabulary: Vocabulary) -> list[str]:
    """Remark on repeated spaces if the file does not say what to do with them."""
    if SPACES in vocabulary.flags or any(2 * SPACE in token for token in vocabulary.tokens):
        return []
    return [f"{PREFIX}{SPACES} is missing, and no token has two spaces: repeated ones are kept, as in llama.cpp"]


def _sentencepiece(vocabulary: Vocabulary, ids: dict[str, int]) -> Model:
    """Rebuild the SentencePiece model: it has exactly one unknown piece, and bos and eos are control pieces."""
    kinds = vocabulary.kinds or [
        BYTE if len(token) == 6 and token.startswith("<0x") else NORMAL for token in vocabulary.tokens
    ]
    kinds = [UNUSED if kind == UNKNOWN else kind for kind in kinds]
    for name in ("eos", "bos"):
        if name in ids:
            kinds[ids[name]] = CONTROL
    if "pad" in ids and kinds[ids["pad"]] == UNUSED:
        kinds[ids["pad"]] = CONTROL
    kinds[ids["unk"]] = UNKNOWN
    pieces = [VocabEntry(*each) for each in zip(vocabulary.tokens, vocabulary.scores, kinds, strict=True)]
    return Model(
        pieces,
        is_bpe=True,
        byte_fallback=BYTE in kinds,
        normalizes=False,
        adds_a_space=vocabulary.flags.get("add_space_prefix", True),
        removes_spaces=vocabulary.flags.get(SPACES, False),
    )


def _is_convertible(model: Model) -> bool:
    """Like conversion.is_convertible, but unused pieces do not matter, and user-defined ones become added tokens."""
    plain = [piece for piece in model.pieces if piece.kind not in (UNUSED, USER_DEFINED)]
    return conversion.is_convertible(dataclasses.replace(model, pieces=plain))


def _from_merges(vocabulary: Vocabulary) -> Converted:
    name = vocabulary.pre or "default"
    if name not in words.PATTERNS:
        known = ", ".join(sorted(words.PATTERNS))
        raise TokenizerError(f"{PREFIX}pre is {name[:80]!r}, expected one of {known}")
    if not vocabulary.merges:
        raise TokenizerError(f"{PREFIX}merges is missing")
    kinds = list(vocabulary.kinds) or [NORMAL] * len(vocabulary.tokens)
    for each in ("bos", "eos"):
        if each in vocabulary.ids:
            kinds[vocabulary.ids[each]] = CONTROL
    starts, ends = _starts_and_ends(vocabulary, vocabulary.ids, name in words.WITH_BOS)
    inside = _last_plain(kinds) + 1
    model: dict[str, Any] = {"vocab": {token: i for i, token in enumerate(vocabulary.tokens[:inside])}}
    model |= {"ignore_merges": name in words.WHOLE, "merges": [_pair(merge) for merge in vocabulary.merges]}
    content = conversion.tokenizer_json(
        model,
        _added(vocabulary, kinds),
        [],
        [],
        pre_tokenizer=words.pre_tokenizer(name),
        post_processor=_post_processor(vocabulary.tokens, starts, ends),
        decoder=words.BYTES,
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    remarks = [] if vocabulary.pre else [f"{PREFIX}pre is missing: words are cut as llama.cpp's 'default' cuts them"]
    return Converted({JSON: content} | _settings(vocabulary, vocabulary.ids, settings), remarks)


def _last_plain(kinds: list[int]) -> int:
    """Id of the last token that is not an added one; the byte-pair model ends with it."""
    return max((i for i, kind in enumerate(kinds) if kind not in (CONTROL, USER_DEFINED, UNKNOWN)), default=-1)


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge[1:].partition(" ")
    if not space or not right:
        raise TokenizerError(f"{PREFIX}merges has {merge[:80]!r}, expected two tokens with a space between them")
    return merge[:1] + left, right


def _starts_and_ends(vocabulary: Vocabulary, ids: dict[str, int], usually: bool) -> tuple[list[int], list[int]]:
    """Ids before and after every text."""
    found = []
    for name, default in (("bos", usually), ("eos", False)):
        wanted = vocabulary.flags.get(f"add_{name}_token", default)
        if wanted and name not in ids and f"add_{name}_token" in vocabulary.flags:
            raise TokenizerError(f"{PREFIX}add_{name}_token is true, but {PREFIX}{name}_token_id is missing")
        found.append([ids[name]] if wanted and name in ids else [])
    return found[0], found[1]


def _added(vocabulary: Vocabulary, kinds: list[int]) -> list[dict[str, Any]]:
    """Entries of special tokens, which are never read from a text, and of user-defined ones, which always are."""
    return [
        {"id": i, "content": vocabulary.tokens[i], "special": kind != USER_DEFINED} | FLAGS
        for i, kind in enumerate(kinds)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def _post_processor(tokens: list[str], starts: list[int], ends: list[int]) -> dict[str, Any] | None:
    """Make the post-processor that adds these ids around a text, and around each of two; None if there are none."""
    if not starts and not ends:
        return None
    before = [tokens[i] for i in starts]
    after = [tokens[i] for i in ends]
    first = conversion.template_sequence(before, "A", 0, after)
    second = conversion.template_sequence(before, "B", 1, after)
    special = {tokens[i]: {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]} for i in starts + ends}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": special,
    }


def _settings(vocabulary: Vocabulary, ids: dict[str, int], settings: dict[str, Any]) -> dict[str, bytes]:
    """Make tokenizer_config.json, and chat_template.jinja if there is one template only."""
    names = {}
    for name, i in ids.items():
        kind = vocabulary.kinds[i] if vocabulary.kinds else CONTROL
        if name in ("bos", "eos") or kind not in (NORMAL, BYTE):  # some files give "!" as the padding token
            names[f"{name}_token"] = vocabulary.tokens[i]
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False} | names | settings
    files = {}
    if vocabulary.templates.keys() == {"default"}:
        files[TEMPLATE] = vocabulary.templates["default"].encode()
    elif vocabulary.templates:
        config["chat_template"] = [{"name": n, "template": text} for n, text in vocabulary.templates.items()]
    return {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"} | files


def _json(whole: dict[str, Any]) -> bytes:
    return json.dumps(whole, ensure_ascii=False).encode()
