r"""llama2.c's `tokenizer.bin` -> a SentencePiece `tokenizer.model`, with the same ids.

    longest      then for each id:  score  length  bytes        int32, float32, int32; little-endian

The entries extend to the end of the file. "\n<s>\n" and "\n</s>\n" are BOS and EOS, with ids 1 and 2, a space is
SentencePiece's "▁", and "<0x0A>" is a byte. The file does not say whether repeated spaces are removed: if they are, as
in llama2.c's own training, SentencePiece learns no piece with two spaces.

karpathy/llama2.c, tokenizer.py: export; run.c: build_tokenizer.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from llama_scratch.tokenizer.files import TokenizerError, naming, read_file
from llama_scratch.tokenizer.sentencepiece_file import (
    BYTE,
    CONTROL,
    LONGEST_PIECE,
    NORMAL,
    SPACE,
    UNKNOWN,
    Model,
    VocabEntry,
    read_model,
    read_processor,
)
from llama_scratch.tokenizer.sentencepiece_writer import write_model

ENTRY = struct.Struct("<fi")
UNK, BOS, EOS = range(3)


def from_llama2c(path: Path) -> bytes:
    """Convert the file at `path` to a tokenizer.model. Raises TokenizerError naming the file."""
    content = read_file(path)
    with naming(path):
        pieces = _pieces(content)
        model = Model(
            pieces,
            is_bpe=True,
            byte_fallback=any(piece.kind == BYTE for piece in pieces),
            normalizes=False,
            adds_a_space=True,
            removes_spaces=not any(2 * SPACE in piece.text for piece in pieces),
        )
        written = write_model(model, BOS, EOS, UNK)
        read_processor(written)  # the library's own checks
        read_model(written)
    return written


def _pieces(content: bytes) -> list[VocabEntry]:
    pieces: list[VocabEntry] = []
    at = 4
    while at < len(content):
        if at + ENTRY.size > len(content):
            raise TokenizerError(f"it ends at byte {len(content)}, inside the entry of token {len(pieces)}")
        score, length = ENTRY.unpack_from(content, at)
        at += ENTRY.size
        if not 0 < length <= min(4 * LONGEST_PIECE, len(content) - at):
            raise TokenizerError(f"token {len(pieces)} has {length} bytes, expected 1 to {4 * LONGEST_PIECE}")
        pieces.append(_piece(len(pieces), content[at : at + length], score))
        at += length
    if len(pieces) <= EOS:
        raise TokenizerError(f"there are {len(pieces)} tokens in it, expected llama2.c's tokenizer.bin")
    return pieces


def _piece(i: int, content: bytes, score: float) -> VocabEntry:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"token {i} is not UTF-8: {error.reason}") from None
    if i <= EOS:
        return VocabEntry(text.strip("\n"), score, UNKNOWN if i == UNK else CONTROL)
    kind = BYTE if re.fullmatch("<0x[0-9A-F]{2}>", text) else NORMAL
    return VocabEntry(text.replace(" ", SPACE), score, kind)
