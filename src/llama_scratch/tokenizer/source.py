"""The common form of the three kinds of tokenizer files: how to encode and decode, special tokens, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from sentencepiece import SentencePieceProcessor

from llama_scratch.tokenizer import conversion, json_file, tiktoken_file
from llama_scratch.tokenizer.added import Added, Encode, around, placed
from llama_scratch.tokenizer.detokenize import Detokenizer
from llama_scratch.tokenizer.files import TokenizerError, token_name
from llama_scratch.tokenizer.sentencepiece_file import Model, detokenizer, read_model, read_processor, special_tokens
from llama_scratch.tokenizer.settings import JSON, MODEL

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\s")


class Source(NamedTuple):
    """A tokenizer's file, read."""

    encode: Callable[[str], list[int]]
    encode_following: Callable[[str], list[int]]
    """Encodes a text after a special token."""
    detokenizer: Detokenizer
    special_tokens: Mapping[str, int]
    strips: Mapping[str, tuple[bool, bool]]
    """Added token -> whether it removes the spaces before it, and those after it."""
    starts: list[int]
    """Ids before a text."""
    ends: list[int]
    """Ids after a text."""
    names: Mapping[str, str | None]
    """Names of `bos_token` and so on in the file itself; tokenizer_config.json takes precedence."""
    settings: Mapping[str, object]
    """Settings of a tokenizer_config.json with which transformers gives the same ids."""
    files: Callable[[], dict[str, bytes]]
    """Makes the files to save."""


def read_source(
    name: str, content: bytes, named: list[str], added: Sequence[Added] = (), settings: Mapping[str, Any] | None = None
) -> Source:
    """Read the file called `name`.

    named: tokens that tokenizer_config.json names, which are special whatever the file says. added: added tokens from
    other files. settings: those of tokenizer_config.json. Raises TokenizerError without the path.
    """
    if name == JSON:
        return _json(content, named, added, {}, lambda: {JSON: content})
    if TIKTOKEN.match(content):
        converted = tiktoken_file.from_tiktoken(content, added)
        return _json(converted, named, added, tiktoken_file.ENDS, lambda: {MODEL: content, JSON: converted})
    return _sentencepiece(content, named, added, settings or {})


def _json(
    content: bytes,
    named: list[str],
    added: Sequence[Added],
    names: Mapping[str, str],
    files: Callable[[], dict[str, bytes]],
) -> Source:
    read = json_file.read_tokenizer(content, named, added)
    return Source(
        encode=partial(json_file.encode, read.library),
        encode_following=partial(json_file.encode, read.following),
        detokenizer=read.detokenizer,
        special_tokens=read.special,
        strips=read.strips,
        starts=read.starts,
        ends=read.ends,
        names={key: name for key, name in names.items() if name in read.special},
        settings={"tokenizer_class": "PreTrainedTokenizerFast"},
        files=files,
    )


def _sentencepiece(content: bytes, named: Sequence[str], added: Sequence[Added], settings: Mapping[str, Any]) -> Source:
    processor = read_processor(content)
    model = read_model(content)
    known = {piece.text: i for i, piece in enumerate(model.pieces)}
    tokens = placed(added, known)
    tokens = {name: token for name, token in tokens.items() if token[1].file or name in named or name not in known}
    names = _names(processor, model)
    special = special_tokens(model) | {name: i for name, (i, token) in tokens.items() if token.special}
    for name in special.keys() - {names["unk_token"]}:
        if special[name] in processor.encode(name):
            raise TokenizerError(f"the text {name[:80]!r} becomes a special token, expected it to stay text")
    following = read_processor(content, space=False) if _puts_no_space_later(model, settings) else processor
    encode: Encode = processor.encode
    encode_following: Encode = following.encode
    if not all(token.special for _, token in tokens.values()):
        encode = around(list(tokens.values()), processor.encode, following.encode)
        encode_following = around(list(tokens.values()), following.encode, following.encode)
    starts, ends = _around_a_text(settings, names, special)
    return Source(
        encode=encode,
        encode_following=encode_following,
        detokenizer=_with_added(detokenizer(model), tokens, special),
        special_tokens=special,
        strips={name: (token.flags["lstrip"], token.flags["rstrip"]) for name, (_, token) in tokens.items()},
        starts=[special[name] for name in starts],
        ends=[special[name] for name in ends],
        names=names,
        settings=_settings(model, settings, names, starts, ends),
        files=lambda: _files(content, model, settings, tokens, starts, ends),
    )


def _names(processor: SentencePieceProcessor, model: Model) -> dict[str, str | None]:
    ids = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id(), "unk_token": processor.unk_id()}
    return {key: model.pieces[i].text if i >= 0 else None for key, i in ids.items()}


def _puts_no_space_later(model: Model, settings: Mapping[str, Any]) -> bool:
    """Return True if a space is added at the beginning of a text only, and not after a special token, as by
    transformers' LlamaTokenizer unless it is `legacy`.
    """
    is_llamas = str(settings.get("tokenizer_class")).removesuffix("Fast") == "LlamaTokenizer"
    return model.adds_a_space and is_llamas and not settings.get("legacy")


def _around_a_text(
    settings: Mapping[str, Any], names: Mapping[str, str | None], special: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """Names of the tokens around a text: by default BOS and no EOS, as for Meta's own models."""

    def listed(key: str) -> list[str]:
        name = token_name({**names, **settings}, key)
        return [name] if name is not None and name in special else []

    starts = listed("bos_token") if settings.get("add_bos_token", True) else []
    ends = listed("eos_token") if settings.get("add_eos_token", False) else []
    return starts, ends


def _with_added(base: Detokenizer, tokens: Mapping[str, tuple[int, Added]], special: Mapping[str, int]) -> Detokenizer:
    """Add the added tokens, each of which decodes to its own text."""
    new = {i: name.encode() for name, (i, _) in tokens.items() if i not in base.pieces}
    return replace(
        base,
        pieces={**base.pieces, **new},
        opening={**base.opening, **new},
        special=frozenset(special.values()),
    )


def _has_json(model: Model, settings: Mapping[str, Any]) -> bool:
    """Return True if a tokenizer.json with the same ids exists."""
    return conversion.is_convertible(model) and not _puts_no_space_later(model, settings)


def _settings(
    model: Model,
    settings: Mapping[str, Any],
    names: Mapping[str, str | None],
    starts: Sequence[str],
    ends: Sequence[str],
) -> dict[str, object]:
    unknown = settings.get("unk_token", names["unk_token"])
    if _has_json(model, settings):
        return {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": unknown}
    # then transformers converts tokenizer.model itself
    return {
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": unknown,
        "legacy": model.adds_a_space and not _puts_no_space_later(model, settings),
        "add_prefix_space": model.adds_a_space,
        "add_bos_token": bool(starts),
        "add_eos_token": bool(ends),
    }


def _files(
    content: bytes,
    model: Model,
    settings: Mapping[str, Any],
    tokens: Mapping[str, tuple[int, Added]],
    starts: Sequence[str],
    ends: Sequence[str],
) -> dict[str, bytes]:
    if not _has_json(model, settings):
        return {MODEL: content}
    # a normalised token would get a space before its name
    added = [
        {"id": i, "content": name, "special": token.special} | dict(token.flags) | {"normalized": False}
        for name, (i, token) in tokens.items()
    ]
    return {MODEL: content, JSON: conversion.from_sentencepiece(model, starts, ends, added)}
