"""A SentencePiece model -> `tokenizer.json`, with the same ids.

SentencePiece merges, of all neighbours that make a piece together, those whose piece has the best score, and of equally
good ones the leftmost. `tokenizers` is given pairs to merge in an order, so every pair that makes a piece is listed, by
the score of the piece. transformers 5.23 lists by id instead when it opens Llama 2's tokenizer.model: the fifteen runs
of spaces, which come last by score, stand first by id. And it puts no space in front of a text that starts with one, as
SentencePiece does. That is why its ids of "a\n  b" and " Hello" are others; with the file written here they are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def from_sentencepiece(
    model: Model, starts: Sequence[str], ends: Sequence[str], added: Sequence[dict[str, Any]] = ()
) -> bytes:
    """The tokenizer.json of a model that is convertible, which puts the tokens called `starts` before every text and
    `ends` behind; `added` are its entries of added tokens.
    """
    normal = {piece.text: (-piece.score, -len(piece.text)) for piece in model.pieces if piece.kind == NORMAL}
    text: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if model.adds_a_space:
        text.insert(0, {"type": "Prepend", "prepend": SPACE})
    if model.removes_spaces:
        edges, several = {"Regex": rf"\A +|[ {SPACE}]+\z"}, {"Regex": " {2,}"}
        text.insert(0, {"type": "Replace", "pattern": several, "content": " "})
        text.insert(0, {"type": "Replace", "pattern": edges, "content": ""})
    back = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if len(text) > 1 else []
    unknown = next(piece.text for piece in model.pieces if piece.kind == UNKNOWN)
    vocab = {piece.text: i for i, piece in enumerate(model.pieces)}
    new = {entry["content"] for entry in added}
    own = {name: i for name, i in special_tokens(model).items() if name not in new}
    return tokenizer_json(
        {"unk_token": unknown, "fuse_unk": True, "byte_fallback": model.byte_fallback, "vocab": vocab}
        | {"merges": merges(normal)},
        special_entries(own) + list(added),
        starts,
        ends,
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


def special_entries(special: Mapping[str, int]) -> list[dict[str, Any]]:
    """The entries of special tokens among the added tokens of a tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": name, "special": True} | flags for name, i in special.items()]


def tokenizer_json(
    model: dict[str, Any], added: Sequence[dict[str, Any]], starts: Sequence[str], ends: Sequence[str], **parts: Any
) -> bytes:
    """The file: a byte-pair model, its added tokens, of which `starts` go before every text and `ends` behind, and what
    else it has.
    """
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda entry: entry["id"]),
        "normalizer": None,
    }
    whole |= {"pre_tokenizer": None, "post_processor": _template(added, starts, ends)}
    return json.dumps(whole | parts | {"model": {"type": "BPE"} | model}, ensure_ascii=False).encode()


def _template(added: Sequence[dict[str, Any]], starts: Sequence[str], ends: Sequence[str]) -> dict[str, Any] | None:
    """What goes around a text, and around each of two; None where nothing does."""
    if not starts and not ends:
        return None
    first, second = (
        [{"SpecialToken": {"id": name, "type_id": i}} for name in starts]
        + [{"Sequence": {"id": text, "type_id": i}}]
        + [{"SpecialToken": {"id": name, "type_id": i}} for name in ends]
        for i, text in enumerate("AB")
    )
    ids = {entry["content"]: entry["id"] for entry in added}
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*starts, *ends)}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": tokens}
