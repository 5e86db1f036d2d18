"""The decoders of a `tokenizer.json` -> the bytes that each of its ids stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llama_scratch.tokenizer.detokenize import Decoding
from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.sentencepiece_file import SPACE
from llama_scratch.tokenizer.tiktoken_file import byte_alphabet

# Llama 2's decoders, of which Strip is there when a space was put in front
BYTE_FALLBACK = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


def read_decoders(decoders: list[dict[str, Any]], vocab: Mapping[str, int], special: frozenset[int]) -> Decoding:
    """Raises TokenizerError for other decoders than Llama 2's and Llama 3's."""
    if [part["type"] for part in decoders] == ["ByteLevel"]:
        alphabet = {ord(character): byte for byte, character in enumerate(byte_alphabet())}
        pieces = {i: _from_alphabet(token, alphabet) for token, i in vocab.items()}
        return Decoding(pieces, pieces, special, each_byte=False)
    if decoders not in (BYTE_FALLBACK, BYTE_FALLBACK[:-1]):
        raise TokenizerError("the decoder is neither ByteLevel nor Llama 2's Replace, ByteFallback, Fuse, Strip")
    pieces = {i: _with_fallback(token) for token, i in vocab.items()}
    opening = {i: piece.removeprefix(b" ") for i, piece in pieces.items()} if decoders == BYTE_FALLBACK else pieces
    return Decoding(pieces, opening, special, each_byte=True)


def _from_alphabet(token: str, alphabet: Mapping[int, int]) -> bytes:
    """Of byte-level BPE; an added token may have characters outside the alphabet and stands for itself then."""
    inside = alphabet.keys() >= set(map(ord, token))
    return token.translate(alphabet).encode("latin-1") if inside else token.encode()


def _with_fallback(token: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()
