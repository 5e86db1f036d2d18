"""A SentencePiece `tokenizer.model`: encoding by the library itself, and what the file says, for all the rest.

The file is a protocol buffer (sentencepiece_model.proto). The few fields that matter are read here, which takes no
protobuf runtime.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import sentencepiece

from llama_scratch.tokenizer.detokenize import Decoding
from llama_scratch.tokenizer.files import TokenizerError

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPACE = "\u2581"  # "▁", which SentencePiece writes for a space
# SentencePiece trains pieces of up to 16 characters, Llama 3 has 128 spaces in one; what a piece can be made of takes
# time quadratic in its length
LONGEST_PIECE = 512


class Piece(NamedTuple):
    """An entry of the vocabulary; `kind` is the file's own number for it, `score` its rank among merges."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a model file says."""

    pieces: list[Piece]
    is_bpe: bool
    byte_fallback: bool
    normalizes: bool
    """More than spaces."""
    adds_a_space: bool
    removes_spaces: bool
    """All at the start and the end, and all but one of several."""


def read_model(content: bytes) -> Model:
    """Raises TokenizerError for a file that is damaged, or that holds what no Llama's does."""
    try:
        pieces = [_piece(dict(_fields(value))) for number, value in _fields(content) if number == 1]
        trainer, normalizer, denormalizer = (_message(content, number) for number in (2, 3, 5))
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


def _piece(fields: dict[int, Any]) -> Piece:
    text, (score,), kind = fields.get(1, b"").decode(), struct.unpack("<f", fields.get(2, bytes(4))), fields.get(3, 1)
    if len(text) > LONGEST_PIECE:
        raise ValueError(f"a piece has {len(text)} characters, expected at most {LONGEST_PIECE}")
    if not math.isfinite(score):
        raise ValueError(f"the score of piece {text!r:.80} is {score}")
    if kind == BYTE and not re.fullmatch("<0x[0-9A-F]{2}>", text):
        raise ValueError(f"{text!r:.80} stands for a byte, expected <0x00> to <0xFF>")
    return Piece(text, score, kind)


def _message(content: bytes, wanted: int) -> dict[int, Any]:
    """The fields of all messages of that number: where one is set twice, the last one holds."""
    return {key: item for number, value in _fields(content) if number == wanted for key, item in _fields(value)}


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field: an int, or the bytes of anything else."""
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
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:
            return value, at
    raise ValueError(f"a number longer than 64 bits, at byte {at}")


# a normalizer_spec (field 3) with add_dummy_prefix (3) = 0: of a message that is there twice the last value holds
NO_SPACE = b"\x1a\x02\x18\x00"


def read_processor(content: bytes, space: bool = True) -> sentencepiece.SentencePieceProcessor:
    """The library's own reading, which checks much more; without `space` it puts none in front of a text, whatever the
    file says. Raises TokenizerError.
    """
    content = content if space else content + NO_SPACE
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError) as error:  # ValueError: its message quotes bytes that are no UTF-8
        raise TokenizerError(f"no SentencePiece model: {' '.join(str(error).split())}") from None


def decoding(model: Model) -> Decoding:
    """As SentencePiece decodes, but for the unknown token, which is special."""
    pieces = {i: _bytes(piece) for i, piece in enumerate(model.pieces)}
    opening = pieces
    if model.adds_a_space or model.removes_spaces:
        words = {i: piece.text for i, piece in enumerate(model.pieces) if piece.kind != BYTE}
        opening = pieces | {i: pieces[i].removeprefix(b" ") for i in words}
    return Decoding(pieces, opening, frozenset(special_tokens(model).values()), True, model.removes_spaces)


def _bytes(piece: Piece) -> bytes:
    return bytes([int(piece.text[3:5], 16)]) if piece.kind == BYTE else piece.text.replace(SPACE, " ").encode()


def special_tokens(model: Model) -> dict[str, int]:
    """Text -> id of what is never read from text."""
    return {piece.text: i for i, piece in enumerate(model.pieces) if piece.kind in (UNKNOWN, CONTROL)}
