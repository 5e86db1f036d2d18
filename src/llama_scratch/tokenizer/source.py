"""What the three kinds of tokenizer files come down to: a way to encode, a way to decode, special tokens, names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from llama_scratch.tokenizer import conversion, json_file, sentencepiece_file, tiktoken_file
from llama_scratch.tokenizer.detokenize import Decoding

JSON, MODEL = "tokenizer.json", "tokenizer.model"
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\s")


class Source(NamedTuple):
    """A tokenizer's file, read."""

    encode: Callable[[str], list[int]]
    encode_following: Callable[[str], list[int]]
    """Of a text that a special token stands before."""
    decoding: Decoding
    special_tokens: Mapping[str, int]
    names: Mapping[str, str | None]
    """What the file itself calls `bos_token` and `eos_token`; tokenizer_config.json says it where the file does not."""
    settings: Mapping[str, object]
    """Of a tokenizer_config.json with which transformers gives the same ids."""
    files: Callable[[], dict[str, bytes]]
    """What to save."""


def read_source(name: str, content: bytes, named: list[str]) -> Source:
    """Of the file called `name`; the tokens `named` by tokenizer_config.json are special, whatever the file says.

    Raises TokenizerError, which does not know the directory.
    """
    if name == JSON:
        return _json(content, named, lambda: {JSON: content})
    if TIKTOKEN.match(content):
        converted = tiktoken_file.from_tiktoken(content)
        return _json(converted, named, lambda: {MODEL: content, JSON: converted})
    return _sentencepiece(content)


def _json(content: bytes, named: list[str], files: Callable[[], dict[str, bytes]]) -> Source:
    library, following, decoding, special_tokens = json_file.read_tokenizer(content, named)
    encode, encode_following = (partial(json_file.encode, each) for each in (library, following))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    return Source(encode, encode_following, decoding, special_tokens, {}, settings, files)


def _sentencepiece(content: bytes) -> Source:
    processor = sentencepiece_file.read_processor(content)
    model = sentencepiece_file.read_model(content)
    ids = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id(), "unk_token": processor.unk_id()}
    names = {key: model.pieces[i].text if i >= 0 else None for key, i in ids.items()}
    convertible = conversion.is_convertible(model)
    settings: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": names["unk_token"]}
    if not convertible:  # transformers makes its own of tokenizer.model then
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_prefix_space": model.adds_a_space}
        settings |= {"add_bos_token": names["bos_token"] is not None, "add_eos_token": False}

    def files() -> dict[str, bytes]:
        json = {JSON: conversion.from_sentencepiece(model, names["bos_token"])} if convertible else {}
        return {MODEL: content} | json

    special_tokens = sentencepiece_file.special_tokens(model)
    decoding = sentencepiece_file.decoding(model)
    return Source(processor.encode, processor.encode, decoding, special_tokens, names, settings, files)
