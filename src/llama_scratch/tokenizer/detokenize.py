"""ids -> text, one id at a time.

Every id stands for some bytes, and the text is the UTF-8 of all bytes in a row; a character may be spread over several
ids, so a stream keeps the bytes of one that is not yet complete. What is no UTF-8 becomes U+FFFD, as the library that
the tokenizer comes from writes it: SentencePiece once for each byte, `tokenizers` with ByteLevel once for each broken
character (the Unicode standard's maximal subpart, section 3.9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

BROKEN = "\ufffd"


@dataclass(frozen=True)
class Decoding:
    """What the ids stand for. A special token stands for nothing, unless special tokens are asked for."""

    pieces: Mapping[int, bytes]
    """Of every id."""
    opening: Mapping[int, bytes]
    """At the start of a text, where SentencePiece takes back the space that it put in front."""
    special: frozenset[int]
    each_byte: bool
    """One U+FFFD for each byte of a broken character, or one for all of them."""
    skips_spaces: bool = False
    """A text starts with the first piece that leaves something, not with the first piece."""

    def stream(self, ids: Iterable[int], special: bool) -> Iterator[str]:
        """The text that each id completes, "" where it completes none, and at the end what is left.

        Raises KeyError for an id outside the vocabulary.
        """
        started, incomplete = False, b""
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
        """The text of `data`, and the bytes at its end that the next ones may make a character."""
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
