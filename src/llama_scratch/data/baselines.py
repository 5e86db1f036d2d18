"""Bits per byte of a text without a language model, to compare with."""

from __future__ import annotations

import lzma
import math
from collections import Counter


def unigram_bits_per_byte(text: bytes) -> float:
    """Entropy of the byte frequencies: the cost without any context."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def xz_bits_per_byte(text: bytes) -> float:
    """Cost by `xz -9`, a compressor that has only the text itself."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
