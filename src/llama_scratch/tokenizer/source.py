"""What the three kinds of tokenizer files come down to: a way to encode, a way to decode, special tokens, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from sentencepiece import SentencePieceProcessor

from llama_scratch.tokenizer import conversion, json_file, tiktoken_file
from llama_scratch.tokenizer.added import Added, Encode, around, placed
from llama_scratch.tokenizer.detokenize import Decoding
from llama_scratch.tokenizer.files import TokenizerError, token_name
from llama_scratch.tokenizer.sentencepiece_file import Model, decoding, read_model, read_processor, special_tokens
from llama_scratch.tokenizer.settings import JSON, MODEL

__all__ = ["JSON", "MODEL", "Source", "read_source"]

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\s")


class Source(NamedTuple):
    """A tokenizer's file, read."""

    encode: Callable[[str], list[int]]
    encode_following: Callable[[str], list[int]]
    """Of a text that a special token stands before."""
    decoding: Decoding
    special_tokens: Mapping[str, int]
    strips: Mapping[str, tuple[bool, bool]]
    """Whether an added token swallows the spaces before it, and those behind it."""
    starts: list[int]
    """What goes before a text."""
    ends: list[int]
    """What goes behind it."""
    names: Mapping[str, str | None]
    """What the file itself calls `bos_token` and so on; tokenizer_config.json may say otherwise."""
    settings: Mapping[str, object]
    """Of a tokenizer_config.json with which transformers gives the same ids."""
    files: Callable[[], dict[str, bytes]]
    """What to save."""


def read_source(
    name: str, content: bytes, named: list[str], added: Sequence[Added] = (), settings: Mapping[str, Any] | None = None
) -> Source:
    """Of the file called `name`; the tokens `named` by tokenizer_config.json are special, whatever the file says,
    `added` stand beside it, and `settings` are those of tokenizer_config.json.

    Raises TokenizerError, which does not know the directory.
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
        decoding=read.decoding,
        special_tokens=read.special,
        strips=read.strips,
        starts=read.starts,
        ends=read.ends,
        names={key: name for key, name in names.items() if name in read.special},
        settings={"tokenizer_class": "PreTrainedTokenizerFast"},
        files=files,
    )


def _sentencepiece(content: bytes, named: Sequence[str], added: Sequence[Added], settings: Mapping[str, Any]) -> Source:
    processor, model = read_processor(content), read_model(content)
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
        decoding=_with_added(decoding(model), tokens, special),
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
    """Whether only the beginning of a text gets a space in front, and not what stands behind a special token: so does
    transformers' LlamaTokenizer unless it is a `legacy` one.
    """
    is_llamas = str(settings.get("tokenizer_class")).removesuffix("Fast") == "LlamaTokenizer"
    return model.adds_a_space and is_llamas and not settings.get("legacy")


def _around_a_text(
    settings: Mapping[str, Any], names: Mapping[str, str | None], special: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """BOS, if nothing is said, as for Meta's own models, and no EOS."""
    wanted = {"bos_token": settings.get("add_bos_token", True), "eos_token": settings.get("add_eos_token", False)}
    found = [token_name({**names, **settings}, key) if wants else None for key, wants in wanted.items()]
    starts, ends = [[name] if name is not None and name in special else [] for name in found]
    return starts, ends


def _with_added(found: Decoding, tokens: Mapping[str, tuple[int, Added]], special: Mapping[str, int]) -> Decoding:
    """An added token stands for its own text."""
    new = {i: name.encode() for name, (i, _) in tokens.items() if i not in found.pieces}
    return replace(
        found,
        pieces={**found.pieces, **new},
        opening={**found.opening, **new},
        special=frozenset(special.values()),
    )


def _has_json(model: Model, settings: Mapping[str, Any]) -> bool:
    """Whether there is a tokenizer.json with the same ids."""
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
    # transformers makes its own of tokenizer.model then
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
    # a space would be put in front of the name of a normalised token too
    added = [
        {"id": i, "content": name, "special": token.special} | dict(token.flags) | {"normalized": False}
        for name, (i, token) in tokens.items()
    ]
    return {MODEL: content, JSON: conversion.from_sentencepiece(model, starts, ends, added)}
