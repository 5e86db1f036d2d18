"""The decoders of a `tokenizer.json` -> the bytes of each id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llama_scratch.tokenizer.detokenize import Detokenizer
from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.sentencepiece_file import SPACE
from llama_scratch.tokenizer.tiktoken_file import byte_alphabet

# Llama 2's decoders; Strip is there if a space is added before a text
BYTE_FALLBACK = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


def read_decoders(decoders: list[dict[str, Any]], vocab: Mapping[str, int], special: frozenset[int]) -> Detokenizer:
    """Make the detokenizer. Raises TokenizerError for decoders other than Llama 2's and Llama 3's."""
    if [part["type"] for part in decoders] == ["ByteLevel"]:
        alphabet = {ord(character): byte for byte, character in enumerate(byte_alphabet())}
        pieces = {i: _from_alphabet(token, alphabet) for token, i in vocab.items()}
        return Detokenizer(pieces, pieces, special, each_byte=False)
    if decoders not in (BYTE_FALLBACK, BYTE_FALLBACK[:-1]):
        raise TokenizerError("the decoder is neither ByteLevel nor Llama 2's Replace, ByteFallback, Fuse, Strip")
    pieces = {i: _with_fallback(token) for token, i in vocab.items()}
    opening = pieces
    if decoders == BYTE_FALLBACK:
        opening = {i: piece.removeprefix(b" ") for i, piece in pieces.items()}
    return Detokenizer(pieces, opening, special, each_byte=True)


def _from_alphabet(token: str, alphabet: Mapping[int, int]) -> bytes:
    """Bytes of a token of byte-level BPE; an added token may have characters outside the alphabet, and stays as it
    is.
    """
    inside = alphabet.keys() >= set(map(ord, token))
    return token.translate(alphabet).encode("latin-1") if inside else token.encode()


def _with_fallback(token: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()
