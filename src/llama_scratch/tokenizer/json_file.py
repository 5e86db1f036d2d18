"""A `tokenizer.json`, through the `tokenizers` library.

Only byte-pair models are opened, made of the parts that Llamas' files have: what else the format allows can ask for
any amount of memory or time, makes ids depend on chance, or would decode in ways that a stream cannot follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

from llama_scratch.tokenizer.added import Added, placed
from llama_scratch.tokenizer.decoders import read_decoders
from llama_scratch.tokenizer.detokenize import Decoding
from llama_scratch.tokenizer.files import TokenizerError, parse_object
from llama_scratch.tokenizer.post_processor import ids_around
from llama_scratch.tokenizer.sentencepiece_file import SPACE

T = TypeVar("T")
# by the key of tokenizer.json: the types known, and the key under which a Sequence has its parts
PARTS = {
    "normalizer": ({"Prepend", "Replace", "NFC", "NFKC"}, "normalizers"),
    "pre_tokenizer": ({"Split", "ByteLevel", "Metaspace", "Digits", "Punctuation"}, "pretokenizers"),
    "decoder": ({"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip"}, "decoders"),
    "post_processor": ({"TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing"}, "processors"),
}
LARGEST_ID = 1 << 24
LONGEST_PATTERN = 1 << 12
# DeepSeek has seven; each may double the length of a text
MOST_PARTS = 12


class Read(NamedTuple):
    """The library's tokenizer, which never cuts or pads, for a text, and for one that follows a special token; how to
    decode; the special tokens; those that swallow spaces before or behind them; what goes before and behind a text.
    """

    library: Tokenizer
    following: Tokenizer
    decoding: Decoding
    special: dict[str, int]
    strips: dict[str, tuple[bool, bool]]
    starts: list[int]
    ends: list[int]


def read_tokenizer(content: bytes, named: Sequence[str], added: Sequence[Added] = ()) -> Read:
    """Special are also the tokens `named` by tokenizer_config.json; `added` stand beside the file. Raises
    TokenizerError.
    """
    raw = parse_object(content)
    library = call_library(lambda: Tokenizer.from_str(content.decode()))
    # the library has accepted the types of all fields that follow
    _check_model(raw["model"])
    changed = _add(raw, added, library.get_vocab(with_added_tokens=True))
    if _make_special(raw, named) or changed:
        library = call_library(lambda: Tokenizer.from_str(json.dumps(raw)))
    parts = {key: list(_parts(raw, key)) for key in PARTS}
    if most := [key for key in PARTS if len(parts[key]) > MOST_PARTS]:
        raise TokenizerError(f"{most[0]} has {len(parts[most[0]])} parts, expected at most {MOST_PARTS}")
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
    decoding = read_decoders(parts["decoder"], vocab, frozenset(special.values()))
    strips = {token["content"]: (token["lstrip"], token["rstrip"]) for token in raw.get("added_tokens", [])}
    starts, ends = ids_around(parts["post_processor"], frozenset(vocab.values()))
    if call_library(lambda: library.encode("a").ids) != [*starts, *encode(library, "a"), *ends]:
        raise TokenizerError("post_processor has several parts that add tokens, expected one")
    return Read(library, following, decoding, special, strips, starts, ends)


def encode(library: Tokenizer, text: str) -> list[int]:
    """Raises TokenizerError where the library fails, as it may on what a hostile file asks of it."""
    return call_library(lambda: library.encode(text, add_special_tokens=False).ids)


def call_library(call: Callable[[], T]) -> T:
    """Raises TokenizerError for what the library raises: Exception itself, or a panic, which is no Exception."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise TokenizerError(f"refused by `tokenizers`: {str(error)[:200]}") from None


def _check_model(model: Mapping[str, Any]) -> None:
    for name, expected in (("type", ("BPE", None)), ("dropout", (None, 0)), ("continuing_subword_prefix", (None, "")),
                           ("end_of_word_suffix", (None, ""))):  # fmt: skip
        if model.get(name) not in expected:
            raise TokenizerError(f"model.{name} is {str(model[name])[:80]}, expected {expected[0]}")


def _following(raw: Mapping[str, Any], pre_tokenizers: Sequence[dict[str, Any]]) -> Tokenizer | None:
    """The tokenizer for text behind a special token, if it is another: where only a beginning gets a space in front."""
    first = [part for part in pre_tokenizers if part.get("prepend_scheme") == "first"]
    for part in first:
        part["prepend_scheme"] = "never"
    return call_library(lambda: Tokenizer.from_str(json.dumps(raw))) if first else None


def _add(raw: dict[str, Any], added: Sequence[Added], vocab: Mapping[str, int]) -> bool:
    """Adds what the file does not have among its added tokens; says whether there was one."""
    raw["added_tokens"] = raw.get("added_tokens") or []
    there = {token["content"] for token in raw["added_tokens"]}
    # what the file itself says of a token holds
    tokens = [token._replace(id=None) if token.content in vocab else token for token in added]
    new = {name: token for name, token in placed(tokens, vocab).items() if name not in there}
    new = {name: token for name, token in new.items() if token[1].file or name not in vocab}
    for name, (i, token) in new.items():
        raw["added_tokens"].append({"id": i, "content": name, "special": token.special} | dict(token.flags))
    return bool(new)


def _make_special(raw: Mapping[str, Any], named: Sequence[str]) -> bool:
    """Marks these tokens as special where the file does not; says whether there was one."""
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
    """The parts of a normalizer, pre_tokenizer or decoder, in a row. Raises TokenizerError for an unknown one."""
    known, inside = PARTS[key]
    waiting = [raw[key]] if raw.get(key) else []
    while waiting:
        part = waiting.pop(0)
        kind = part.get("type")  # the library guesses it where it is not there
        if kind == "Sequence":
            waiting = part[inside] + waiting
        elif isinstance(kind, str) and kind in known:
            yield part
        else:
            raise TokenizerError(f"{key} is {str(kind)[:80]!r}, expected one of {', '.join(sorted(known))}")


def _check_part(part: Mapping[str, Any]) -> None:
    """Raises TokenizerError for a text that grows without bound, or a pattern longer than any that splits words."""
    content, pattern = part.get("content", part.get("prepend", "")), part.get("pattern")
    if part["type"] in ("Replace", "Prepend") and content not in ("", " ", SPACE):
        raise TokenizerError(f"normalizer writes {content[:80]!r}, expected a space, {SPACE!r} or nothing")
    if pattern is not None and not 0 < len(text := next(iter(pattern.values()))) <= LONGEST_PATTERN:
        raise TokenizerError(f"a pattern has {len(text)} characters, expected 1 to {LONGEST_PATTERN}")


def _special_tokens(raw: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Raises TokenizerError when the library has given a token another id than the file says."""
    for token in raw.get("added_tokens", []):
        if ids.get(token["content"]) != token["id"]:
            found = f"added token {token['content'][:80]!r} has id {token['id']}"
            raise TokenizerError(
                f"{found}, expected {ids.get(token['content'])}: the first free one, or the model's own"
            )
    if ids and (largest := max(ids.values())) >= LARGEST_ID:
        raise TokenizerError(f"there is a token with id {largest}, expected ids below {LARGEST_ID}")
    return {token["content"]: token["id"] for token in raw.get("added_tokens", []) if token["special"]}
