"""What a text costs without a language model: the numbers that bits per byte are read against."""

from __future__ import annotations

import lzma
import math
from collections import Counter


def unigram_bits_per_byte(text: bytes) -> float:
    """The entropy of single bytes, drawn as often as they stand in `text`: what knowing no context costs."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def xz_bits_per_byte(text: bytes) -> float:
    """What `xz -9` makes of `text`, a compressor that knows nothing but the text itself."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)
