"""A SentencePiece model -> `tokenizer.json`, with the same ids.

SentencePiece merges, of all neighbours that make a piece together, those whose piece has the best score, and of equally
good ones the leftmost. `tokenizers` is given pairs to merge in an order, so every pair that makes a piece is listed, by
the score of the piece. transformers 5.23 lists by id instead when it opens Llama 2's tokenizer.model: the fifteen runs
of spaces, which come last by score, stand first by id. And it puts no space in front of a text that starts with one, as
SentencePiece does. That is why its ids of "a\n  b" and " Hello" are others; with the file written here they are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_scratch.tokenizer.sentencepiece_file import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, Model, special_tokens


def is_convertible(model: Model) -> bool:
    """Whether there is a tokenizer.json with the same ids: not for Unigram, for text that is normalised by more than
    spaces, for user-defined or unused pieces, and for pieces of characters that are no pieces themselves.
    """
    normal = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    kinds = {piece.kind for piece in model.pieces}
    plain = model.is_bpe and not model.normalizes and kinds <= {NORMAL, UNKNOWN, CONTROL, BYTE}
    return plain and {character for text in normal for character in text} <= normal


def from_sentencepiece(model: Model, bos: str | None) -> bytes:
    """The tokenizer.json of a model that is convertible, which puts the token called `bos` first."""
    normal = {piece.text: (-piece.score, -len(piece.text)) for piece in model.pieces if piece.kind == NORMAL}
    text: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if model.adds_a_space:
        text.insert(0, {"type": "Prepend", "prepend": SPACE})
    if model.removes_spaces:
        ends, several = {"Regex": rf"\A +|[ {SPACE}]+\z"}, {"Regex": " {2,}"}
        text.insert(0, {"type": "Replace", "pattern": several, "content": " "})
        text.insert(0, {"type": "Replace", "pattern": ends, "content": ""})
    back = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if len(text) > 1 else []
    unknown = next(piece.text for piece in model.pieces if piece.kind == UNKNOWN)
    vocab = {piece.text: i for i, piece in enumerate(model.pieces)}
    return tokenizer_json(
        {"unk_token": unknown, "fuse_unk": True, "byte_fallback": model.byte_fallback, "vocab": vocab}
        | {"merges": merges(normal)},
        special_tokens(model),
        bos,
        normalizer={"type": "Sequence", "normalizers": text},
        decoder={"type": "Sequence", "decoders": [*back, {"type": "Fuse"}, *strip]},
    )


def merges(order: Mapping[str, tuple[float, ...]]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third, those first whose third comes first in `order`.

    Of equally good ones the longer comes first: SentencePiece, going from left to right, lengthens what it has just
    merged before it starts another.
    """
    pairs = [
        (rank, -cut, text[:cut], text[cut:])
        for text, rank in order.items()
        for cut in range(1, len(text))
        if text[:cut] in order and text[cut:] in order
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def tokenizer_json(model: dict[str, Any], special: Mapping[str, int], bos: str | None, **parts: Any) -> bytes:
    """The file: a byte-pair model, its special tokens, of which `bos` goes before every text, and what else it has."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": name, "special": True} | flags for name, i in special.items()]
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
    }
    whole |= {"pre_tokenizer": None, "post_processor": _template(bos, special) if bos else None}
    return json.dumps(whole | parts | {"model": {"type": "BPE"} | model}, ensure_ascii=False).encode()


def _template(bos: str, special: Mapping[str, int]) -> dict[str, Any]:
    """BOS before a text, and before each of two."""
    first, second = (
        [{"SpecialToken": {"id": bos, "type_id": i}}, {"Sequence": {"id": name, "type_id": i}}]
        for i, name in enumerate("AB")
    )
    token = {"id": bos, "ids": [special[bos]], "tokens": [bos]}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": {bos: token}}
