"""A SentencePiece `tokenizer.model`: the library encodes, and the fields of the file give everything else.

The file is a protocol buffer (sentencepiece_model.proto). The few fields that matter are read here: 45 lines instead of
a dependency on protobuf at run time.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import sentencepiece

from llama_scratch.tokenizer.detokenize import Detokenizer
from llama_scratch.tokenizer.files import TokenizerError

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPACE = "\u2581"  # "▁", which SentencePiece writes for a space
# SentencePiece trains pieces of up to 16 characters, Llama 3 has one of 128 spaces; finding the merges of a piece takes
# time quadratic in its length
LONGEST_PIECE = 512


class VocabEntry(NamedTuple):
    """An entry of the vocabulary; `kind` is the number of its type in the file, `score` its rank among merges."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """The fields of a model file."""

    pieces: list[VocabEntry]
    is_bpe: bool
    byte_fallback: bool
    normalizes: bool
    """Return True if more than spaces is normalised."""
    adds_a_space: bool
    removes_spaces: bool
    """Return True if leading, trailing and repeated spaces are removed."""


def read_model(content: bytes) -> Model:
    """Read the fields. Raises TokenizerError for a damaged file, or one with settings that no Llama has."""
    try:
        pieces = [_piece(dict(_fields(value))) for number, value in _fields(content) if number == 1]
        trainer = _message(content, 2)
        normalizer = _message(content, 3)
        denormalizer = _message(content, 5)
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:  # a number for a text, and so on
        raise TokenizerError(f"no SentencePiece model: {error}") from None
    if not pieces:
        raise TokenizerError("no SentencePiece model: there is not one piece in it")
    if trainer.get(24) or denormalizer.get(2):
        raise TokenizerError("spaces as suffixes, or text that is rewritten after decoding, are not supported")
    return Model(
        pieces,
        is_bpe=trainer.get(3, 1) == 2,
        byte_fallback=bool(trainer.get(35, 0)),
        normalizes=bool(normalizer.get(2)) or not normalizer.get(5, 1),
        adds_a_space=bool(normalizer.get(3, 1)),
        removes_spaces=bool(normalizer.get(4, 1)),
    )


def _piece(fields: dict[int, Any]) -> VocabEntry:
    text = fields.get(1, b"").decode()
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    kind = fields.get(3, 1)
    if len(text) > LONGEST_PIECE:
        raise ValueError(f"a piece has {len(text)} characters, expected at most {LONGEST_PIECE}")
    if not math.isfinite(score):
        raise ValueError(f"the score of piece {text!r:.80} is {score}")
    if kind == BYTE and not re.fullmatch("<0x[0-9A-F]{2}>", text):
        raise ValueError(f"{text!r:.80} stands for a byte, expected <0x00> to <0xFF>")
    return VocabEntry(text, score, kind)


def _message(content: bytes, wanted: int) -> dict[int, Any]:
    """Merge the fields of all messages of that number; of a field that is set twice the last value holds."""
    return {key: item for number, value in _fields(content) if number == wanted for key, item in _fields(value)}


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of every field: an int, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7), at)
        if size is None or at + size > len(message):
            raise ValueError(f"a field of unknown type or beyond the end, at byte {at}")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Decode a varint: seven bits per byte, the lowest first; the eighth is set if more follow."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError(f"a number longer than 64 bits, at byte {at}")


# a normalizer_spec (field 3) with add_dummy_prefix (3) = 0; of a repeated field the last value holds
NO_SPACE = b"\x1a\x02\x18\x00"


def read_processor(content: bytes, space: bool = True) -> sentencepiece.SentencePieceProcessor:
    """Load the model in the library, which checks more of it. Without `space` no space is added before a text, whatever
    the file says. Raises TokenizerError.
    """
    content = content if space else content + NO_SPACE
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError) as error:  # ValueError: its message quotes bytes that are not UTF-8
        raise TokenizerError(f"no SentencePiece model: {' '.join(str(error).split())}") from None


def detokenizer(model: Model) -> Detokenizer:
    """Decode like SentencePiece, except for the unknown token, which is special."""
    pieces = {i: _bytes(piece) for i, piece in enumerate(model.pieces)}
    opening = pieces
    if model.adds_a_space or model.removes_spaces:
        words = {i: piece.text for i, piece in enumerate(model.pieces) if piece.kind != BYTE}
        opening = pieces | {i: pieces[i].removeprefix(b" ") for i in words}
    return Detokenizer(pieces, opening, frozenset(special_tokens(model).values()), True, model.removes_spaces)


def _bytes(piece: VocabEntry) -> bytes:
    return bytes([int(piece.text[3:5], 16)]) if piece.kind == BYTE else piece.text.replace(SPACE, " ").encode()


def special_tokens(model: Model) -> dict[str, int]:
    """Map the text of each entry that is never read from a text to its id."""
    return {piece.text: i for i, piece in enumerate(model.pieces) if piece.kind in (UNKNOWN, CONTROL)}
