"""A tiktoken file, which is what Meta ships as Llama 3's `tokenizer.model` -> `tokenizer.json`, with the same ids.

Each line has a token in base64 and its rank, which is its id and the order in which tokens are merged. The pattern of
words and the special tokens are not in the file.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

from llama_scratch.tokenizer.added import Added
from llama_scratch.tokenizer.conversion import merges, special_entries, tokenizer_json
from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.sentencepiece_file import LONGEST_PIECE

# Llama 3's words: meta-llama/llama-models, models/llama3/tokenizer.py
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# its special tokens, which the file does not hold, as the tokenizer.json of Llama 3.1 and later has them
NAMED = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}
SPECIAL = 256
ENDS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}


def from_tiktoken(content: bytes, added: Sequence[Added] = ()) -> bytes:
    """Convert to a tokenizer.json; special tokens have the names of `added`, or else Llama 3's.

    Raises TokenizerError for a damaged file.
    """
    ranks = _ranks(content)
    special = _special(len(ranks)) | {token.id: token.content for token in added if token.id is not None}
    ids = {name: i for i, name in sorted(special.items()) if len(ranks) <= i < len(ranks) + SPECIAL}
    alphabet = dict(enumerate(byte_alphabet()))
    vocab = {token.decode("latin-1").translate(alphabet): rank for token, rank in ranks.items()}
    words = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return tokenizer_json(
        {"ignore_merges": True, "vocab": vocab, "merges": merges({text: (rank,) for text, rank in vocab.items()})},
        special_entries(ids),
        [special[len(ranks)]],
        [],
        pre_tokenizer={"type": "Sequence", "pretokenizers": [words, to_bytes]},
        decoder=to_bytes,
    )


def _special(first: int) -> dict[int, str]:
    """Llama 3's special tokens, from id `first` on."""
    reserved = (f"reserved_special_token_{i}" for i in range(SPECIAL))
    return {first + i: f"<|{NAMED.get(i) or next(reserved)}|>" for i in range(SPECIAL)}


def _ranks(content: bytes) -> dict[bytes, int]:
    try:
        rows = [line.split() for line in content.splitlines()]
        ranks = {binascii.a2b_base64(token, strict_mode=True): int(rank) for token, rank in rows}
    except ValueError as error:
        raise TokenizerError(f"no tiktoken file: {str(error)[:80]}, expected lines of base64 and a rank") from None
    if sorted(ranks.values()) != list(range(len(rows))):
        raise TokenizerError(f"no tiktoken file: its {len(rows)} ranks are not 0, 1, 2, …, each with its own token")
    if any(len(token) > LONGEST_PIECE for token in ranks):
        raise TokenizerError(f"no tiktoken file: a token has more than {LONGEST_PIECE} bytes")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"no tiktoken file: byte 0x{missing[0]:02X} has no rank")
    return ranks


def byte_alphabet() -> list[str]:
    """List the character of each byte in byte-level BPE (Radford et al. 2019, encoder.py): itself if it is visible,
    else the next one from U+0100 on.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]
