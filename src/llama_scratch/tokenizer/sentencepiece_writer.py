"""Pieces and settings -> a SentencePiece `tokenizer.model`: the inverse of sentencepiece_file.read_model.

Other formats keep the pieces of a SentencePiece model, but not the file. With a new file the original library encodes.

google/sentencepiece, src/sentencepiece_model.proto: the numbers of the fields.
"""

from __future__ import annotations

import struct

from llama_scratch.tokenizer.sentencepiece_file import Model

PIECES, TRAINER, NORMALIZER = 1, 2, 3
BPE = 2


def write_model(model: Model, bos_id: int, eos_id: int, unk_id: int, pad_id: int = -1) -> bytes:
    """Write the file of a byte-pair model that normalises only spaces; an id of -1 means no such token."""
    trainer = _number(3, BPE) + _number(4, len(model.pieces)) + _number(35, model.byte_fallback)
    for number, special_id in ((40, unk_id), (41, bos_id), (42, eos_id), (43, pad_id)):
        trainer += _number(number, special_id)
    trainer += _text(45, model.pieces[unk_id].text)
    trainer += _text(46, model.pieces[bos_id].text) if bos_id >= 0 else b""
    trainer += _text(47, model.pieces[eos_id].text) if eos_id >= 0 else b""
    trainer += _text(48, model.pieces[pad_id].text) if pad_id >= 0 else b""
    normalizer = _text(1, "identity") + _number(3, model.adds_a_space) + _number(4, model.removes_spaces)
    content = b"".join(
        _bytes(PIECES, _text(1, piece.text) + _float(2, piece.score) + _number(3, piece.kind)) for piece in model.pieces
    )
    return content + _bytes(TRAINER, trainer) + _bytes(NORMALIZER, normalizer + _number(5, 1))


def _number(field: int, value: int) -> bytes:
    """Encode a varint field; a negative value as its 64 bits."""
    return _varint(field << 3) + _varint(value % (1 << 64))


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encode a varint: seven bits per byte, the lowest first; the eighth is set if more follow."""
    low = bytearray()
    while value > 127:
        low.append(value & 127 | 128)
        value >>= 7
    return bytes([*low, value])
