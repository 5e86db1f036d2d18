"""ids -> text, one id at a time.

Every id has some bytes, and the text is the UTF-8 decoding of all of them together. A character may extend over several
ids, so a stream keeps the bytes of an incomplete one. Invalid UTF-8 becomes U+FFFD as in the library of the tokenizer:
once per byte in SentencePiece, once per broken character (the Unicode standard's maximal subpart, section 3.9) in
`tokenizers` with ByteLevel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

BROKEN = "\ufffd"


@dataclass(frozen=True)
class Detokenizer:
    """The bytes of the ids. Those of special tokens are skipped unless requested."""

    pieces: Mapping[int, bytes]
    """Bytes of every id."""
    opening: Mapping[int, bytes]
    """The same at the start of a text, where SentencePiece removes the space that it has added."""
    special: frozenset[int]
    each_byte: bool
    """Return True for one U+FFFD per byte of a broken character, False for one per character."""
    skips_spaces: bool = False
    """Return True if a text starts with its first piece that is not empty, rather than with its first piece."""

    def stream(self, ids: Iterable[int], special: bool) -> Iterator[str]:
        """Yield the text that each id completes ("" inside a character), then the remainder.

        Raises KeyError for an id outside the vocabulary.
        """
        started = False
        incomplete = b""
        for i in ids:
            piece = (self.pieces if started else self.opening)[i]
            if i in self.special and not special:
                yield ""
                continue
            started = started or not self.skips_spaces or piece != b""
            text, incomplete = self._text(incomplete + piece)
            yield text
        yield self._text(incomplete, final=True)[0]

    def _text(self, data: bytes, final: bool = False) -> tuple[str, bytes]:
        """Decode `data`; return the text, and the bytes of an incomplete character at its end."""
        text = ""
        while data:
            try:
                return text + data.decode(), b""
            except UnicodeDecodeError as error:
                text += data[: error.start].decode()
                if not final and error.reason == "unexpected end of data":
                    return text, data[error.start :]
                text += BROKEN
                data = data[error.start + 1 if self.each_byte else error.end :]
        return text, b""
