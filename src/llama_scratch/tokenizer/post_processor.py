"""The `post_processor` of a tokenizer.json: the ids before and after a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llama_scratch.tokenizer.files import TokenizerError


def ids_around(parts: Iterable[Mapping[str, Any]], known: frozenset[int]) -> tuple[list[int], list[int]]:
    """Return the ids before and after a text, for post-processors of which at most one adds any. Raises
    TokenizerError.
    """
    starts: list[int] = []
    ends: list[int] = []
    for part in parts:
        before, after = _around(part)
        starts = before + starts
        ends = ends + after
    for i in starts + ends:
        if i not in known:
            raise TokenizerError(f"post_processor puts id {i}, expected one of the vocabulary's")
    return starts, ends


def _around(part: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    if part["type"] == "ByteLevel":  # moves offsets only
        return [], []
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return [part["cls"][1]], [part["sep"][1]]
    pieces = [next(iter(piece.items())) for piece in part["single"]]
    texts = [at for at, (kind, _) in enumerate(pieces) if kind == "Sequence"]
    if len(texts) != 1:
        raise TokenizerError(f"post_processor has the text {len(texts)} times, expected it once")
    before = pieces[: texts[0]]
    after = pieces[texts[0] + 1 :]
    return _ids(before, part["special_tokens"]), _ids(after, part["special_tokens"])


def _ids(pieces: Iterable[tuple[str, Any]], special: Mapping[str, Any]) -> list[int]:
    names = [token["id"] for _, token in pieces]
    missing = [name for name in names if name not in special]
    if missing:
        raise TokenizerError(f"post_processor puts {str(missing[0])[:80]!r}, expected one of its special_tokens")
    return [i for name in names for i in special[name]["ids"]]
