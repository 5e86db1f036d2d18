"""A `tokenizer.json`, through the `tokenizers` library.

Only byte-pair models with the parts that Llamas' files have are opened: other parts of the format may need any amount
of memory or time, make ids random, or cannot be decoded as a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

from llama_scratch.tokenizer.added import Added, placed
from llama_scratch.tokenizer.decoders import read_decoders
from llama_scratch.tokenizer.detokenize import Detokenizer
from llama_scratch.tokenizer.files import TokenizerError, parse_object
from llama_scratch.tokenizer.post_processor import ids_around
from llama_scratch.tokenizer.sentencepiece_file import SPACE

T = TypeVar("T")
# key of tokenizer.json -> the known types, and the key of the parts of a Sequence
PARTS = {
    "normalizer": ({"Prepend", "Replace", "NFC", "NFKC"}, "normalizers"),
    "pre_tokenizer": ({"Split", "ByteLevel", "Metaspace", "Digits", "Punctuation"}, "pretokenizers"),
    "decoder": ({"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip"}, "decoders"),
    "post_processor": ({"TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"}, "processors"),
}
# key of the model -> the supported values, the usual one first
SUPPORTED_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE", None),
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
LARGEST_ID = 1 << 24
LONGEST_PATTERN = 1 << 12
# DeepSeek has seven; each may double the length of a text
MOST_PARTS = 12


class Read(NamedTuple):
    """A tokenizer.json, read: the library's tokenizer, without truncation and padding, for a text and for one that
    follows a special token; the detokenizer; special tokens; tokens that remove spaces before or after them; ids before
    and after a text.
    """

    library: Tokenizer
    following: Tokenizer
    detokenizer: Detokenizer
    special: dict[str, int]
    strips: dict[str, tuple[bool, bool]]
    starts: list[int]
    ends: list[int]


def read_tokenizer(content: bytes, named: Sequence[str], added: Sequence[Added] = ()) -> Read:
    """Read a tokenizer.json. Raises TokenizerError.

    named: tokens that tokenizer_config.json names, which are special, too. added: added tokens from other files.
    """
    raw = parse_object(content)
    library = call_library(lambda: Tokenizer.from_str(content.decode()))
    # the library has accepted the types of all fields that follow
    _check_model(raw["model"])
    changed = _add(raw, added, library.get_vocab(with_added_tokens=True))
    if _make_special(raw, named) or changed:
        library = call_library(lambda: Tokenizer.from_str(json.dumps(raw)))
    parts = {key: list(_parts(raw, key)) for key in PARTS}
    for key, listed in parts.items():
        if len(listed) > MOST_PARTS:
            raise TokenizerError(f"{key} has {len(listed)} parts, expected at most {MOST_PARTS}")
    for part in parts["normalizer"] + parts["pre_tokenizer"]:
        _check_part(part)
    following = _following(raw, parts["pre_tokenizer"]) or library
    for each in (library, following):
        each.no_truncation()
        each.no_padding()
        each.encode_special_tokens = True  # "</s>" in a text is text
    vocab = library.get_vocab(with_added_tokens=True)
    special = _special_tokens(raw, vocab)
    for name in special.keys() - {raw["model"].get("unk_token")}:
        if special[name] in encode(library, name):
            raise TokenizerError(f"the text {name[:80]!r} becomes a special token, expected it to stay text")
    detokenizer = read_decoders(parts["decoder"], vocab, frozenset(special.values()))
    strips = {token["content"]: (token["lstrip"], token["rstrip"]) for token in raw.get("added_tokens", [])}
    starts, ends = ids_around(parts["post_processor"], frozenset(vocab.values()))
    if call_library(lambda: library.encode("a").ids) != [*starts, *encode(library, "a"), *ends]:
        raise TokenizerError("post_processor has several parts that add tokens, expected one")
    return Read(library, following, detokenizer, special, strips, starts, ends)


def encode(library: Tokenizer, text: str) -> list[int]:
    """Encode a text. Raises TokenizerError if the library fails, as it may for a hostile file."""
    return call_library(lambda: library.encode(text, add_special_tokens=False).ids)


def call_library(call: Callable[[], T]) -> T:
    """Call the library. Raises TokenizerError for what it raises: Exception itself, or a panic, a BaseException."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"refused by `tokenizers`: {str(error)[:200]}") from None


def _check_model(model: Mapping[str, Any]) -> None:
    for name, expected in SUPPORTED_MODEL.items():
        if model.get(name) not in expected:
            raise TokenizerError(f"model.{name} is {str(model[name])[:80]}, expected {expected[0]}")


def _following(raw: Mapping[str, Any], pre_tokenizers: Sequence[dict[str, Any]]) -> Tokenizer | None:
    """Make the tokenizer for text after a special token; None if it is the same.

    It differs if a space is added at the beginning of a text only.
    """
    first = [part for part in pre_tokenizers if part.get("prepend_scheme") == "first"]
    for part in first:
        part["prepend_scheme"] = "never"
    return call_library(lambda: Tokenizer.from_str(json.dumps(raw))) if first else None


def _add(raw: dict[str, Any], added: Sequence[Added], vocab: Mapping[str, int]) -> bool:
    """Add tokens that the file lacks to its added tokens; return True if there are any."""
    raw["added_tokens"] = raw.get("added_tokens") or []
    there = {token["content"] for token in raw["added_tokens"]}
    # the file's own id of a token takes precedence
    tokens = [token._replace(id=None) if token.content in vocab else token for token in added]
    new = {name: token for name, token in placed(tokens, vocab).items() if name not in there}
    new = {name: token for name, token in new.items() if token[1].file or name not in vocab}
    for name, (i, token) in new.items():
        raw["added_tokens"].append({"id": i, "content": name, "special": token.special} | dict(token.flags))
    return bool(new)


def _make_special(raw: Mapping[str, Any], named: Sequence[str]) -> bool:
    """Mark these tokens as special; return True if the file had not marked one of them."""
    added = {token["content"]: token for token in raw.get("added_tokens", [])}
    ordinary = [name for name in named if name in added and not added[name]["special"]]
    for name in ordinary:
        added[name]["special"] = True
    for name in [name for name in named if name not in added and name in raw["model"]["vocab"]]:
        ordinary.append(name)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        raw["added_tokens"].append({"id": raw["model"]["vocab"][name], "content": name, "special": True} | flags)
    return bool(ordinary)


def _parts(raw: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Flatten a normalizer, pre_tokenizer or decoder to its parts. Raises TokenizerError for an unknown one."""
    known, inside = PARTS[key]
    waiting = [raw[key]] if raw.get(key) else []
    while waiting:
        part = waiting.pop(0)
        kind = part.get("type")  # the library guesses a missing one
        if kind == "Sequence":
            waiting = part[inside] + waiting
        elif isinstance(kind, str) and kind in known:
            yield part
        else:
            raise TokenizerError(f"{key} is {str(kind)[:80]!r}, expected one of {', '.join(sorted(known))}")


def _check_part(part: Mapping[str, Any]) -> None:
    """Raise TokenizerError for a part that lets a text grow without bound, and for an overlong pattern."""
    content = part.get("content", part.get("prepend", ""))
    pattern = part.get("pattern")
    if part["type"] in ("Replace", "Prepend") and content not in ("", " ", SPACE):
        raise TokenizerError(f"normalizer writes {content[:80]!r}, expected a space, {SPACE!r} or nothing")
    if pattern is not None:
        length = len(next(iter(pattern.values())))
        if not 0 < length <= LONGEST_PATTERN:
            raise TokenizerError(f"a pattern has {length} characters, expected 1 to {LONGEST_PATTERN}")


def _special_tokens(raw: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Map special tokens to ids. Raises TokenizerError if the library has given a token another id than the file."""
    for token in raw.get("added_tokens", []):
        if ids.get(token["content"]) != token["id"]:
            found = f"added token {token['content'][:80]!r} has id {token['id']}"
            raise TokenizerError(
                f"{found}, expected {ids.get(token['content'])}: the first free one, or the model's own"
            )
    if ids and (largest := max(ids.values())) >= LARGEST_ID:
        raise TokenizerError(f"there is a token with id {largest}, expected ids below {LARGEST_ID}")
    return {token["content"]: token["id"] for token in raw.get("added_tokens", []) if token["special"]}
