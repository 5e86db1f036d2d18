"""A SentencePiece model -> `tokenizer.json`, with the same ids.

Of all neighbours that form a piece together, SentencePiece merges the pair whose piece has the best score, the leftmost
of equal ones. `tokenizers` needs an ordered list of pairs, so every pair that forms a piece is listed, by the score of
the piece. transformers 5.23 orders by id instead when it opens Llama 2's tokenizer.model: the fifteen runs of spaces,
which are last by score, are first by id. And unlike SentencePiece it adds no space to a text that starts with one.
Therefore its ids of "a\n  b" and " Hello" differ; with the file written here they do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_scratch.tokenizer.sentencepiece_file import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, Model, special_tokens


def is_convertible(model: Model) -> bool:
    """Return True if a tokenizer.json with the same ids exists: not for Unigram, for normalisation of more than
    spaces, for user-defined or unused pieces, and for pieces of characters that are not pieces themselves.
    """
    normal = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    kinds = {piece.kind for piece in model.pieces}
    plain = model.is_bpe and not model.normalizes and kinds <= {NORMAL, UNKNOWN, CONTROL, BYTE}
    return plain and {character for text in normal for character in text} <= normal


def from_sentencepiece(
    model: Model, starts: Sequence[str], ends: Sequence[str], added: Sequence[dict[str, Any]] = ()
) -> bytes:
    """Convert a model that is convertible to a tokenizer.json.

    starts, ends: names of the tokens before and after every text. added: the entries of added tokens.
    """
    normal = {piece.text: (-piece.score, -len(piece.text)) for piece in model.pieces if piece.kind == NORMAL}
    text: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if model.adds_a_space:
        text.insert(0, {"type": "Prepend", "prepend": SPACE})
    if model.removes_spaces:
        edges = {"Regex": rf"\A +|[ {SPACE}]+\z"}
        several = {"Regex": " {2,}"}
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
    """List every pair of pieces that forms a third, in the order of the third.

    Of equal ones the pair with the longer left part comes first: SentencePiece works from left to right, and extends
    the last merge before it starts another.
    """
    pairs = [
        (rank, -cut, text[:cut], text[cut:])
        for text, rank in order.items()
        for cut in range(1, len(text))
        if text[:cut] in order and text[cut:] in order
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def special_entries(special: Mapping[str, int]) -> list[dict[str, Any]]:
    """Make the entries of special tokens among the added tokens of a tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": name, "special": True} | flags for name, i in special.items()]


def tokenizer_json(
    model: dict[str, Any], added: Sequence[dict[str, Any]], starts: Sequence[str], ends: Sequence[str], **parts: Any
) -> bytes:
    """Make the file: a byte-pair model, its added tokens, of which `starts` come before every text and `ends` after it,
    and the other parts.
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
    """Make the post-processor for one text and for two; None if nothing is added."""
    if not starts and not ends:
        return None
    first = template_sequence(starts, "A", 0, ends)
    second = template_sequence(starts, "B", 1, ends)
    ids = {entry["content"]: entry["id"] for entry in added}
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*starts, *ends)}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": tokens}


def template_sequence(starts: Sequence[str], text: str, kind: int, ends: Sequence[str]) -> list[dict[str, Any]]:
    """Name the tokens around a text."""
    before = [{"SpecialToken": {"id": name, "type_id": kind}} for name in starts]
    after = [{"SpecialToken": {"id": name, "type_id": kind}} for name in ends]
    return [*before, {"Sequence": {"id": text, "type_id": kind}}, *after]
