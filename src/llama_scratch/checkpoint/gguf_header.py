"""The header of a GGUF file: the values that describe the model, and the offset of each tensor.

    "GGUF"  version  tensors  entries
    entries × (name, type, value)            value: a number, a string, or an array of them
    tensors × (name, axes, sizes, type, offset)
    padding to a multiple of general.alignment, then the tensors; sizes are in reverse order, the row first

Everything is little-endian. Every length is checked against the rest of the file before memory is allocated, which the
reader of the `gguf` package does not do: that is why it is not used here. Long arrays and arrays of strings, which
belong to tokenizers, are skipped; `read_array` reads one of them on demand.

ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llama_scratch.checkpoint.files import CheckpointError, size, unreadable

T = TypeVar("T")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONG = 4096  # elements: no array that a Llama's configuration needs has more
MOST_STRINGS = 1 << 24  # elements: no vocabulary, and no list of merges, has more
LONGEST_STRING = 1 << 24  # bytes: no chat template has more
MAX_AXES = 4


@dataclass(frozen=True)
class Entry:
    """A tensor: its shape, the number of its type, and its offset from the start of the data."""

    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class Array:
    """A skipped array: the type and number of its elements, and the offset of the first."""

    kind: int
    length: int
    place: int


@dataclass(frozen=True)
class Header:
    """The header; long arrays and arrays of strings are in `arrays` instead of `values`."""

    values: dict[str, Any]
    arrays: dict[str, Array]
    tensors: dict[str, Entry]
    data: int  # where the tensors begin


class _Cursor:
    """A position in the file, which cannot pass its end."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.buffer = buffer
        self.place = 0

    def skip(self, length: int) -> None:
        if length > len(self.buffer) - self.place:
            raise ValueError(f"it ends at byte {len(self.buffer)}, but {length} more are announced at {self.place}")
        self.place += length

    def number(self, code: str) -> Any:
        start, form = self.place, struct.Struct("<" + code)
        self.skip(form.size)
        return form.unpack_from(self.buffer, start)[0]

    def string(self) -> str:
        length = self.number("Q")
        start = self.place
        self.skip(length)
        if length > LONGEST_STRING:
            raise ValueError(f"a text has {length} bytes, expected at most {LONGEST_STRING}")
        return self.buffer[start : start + length].decode("utf-8")

    def value(self) -> Any:
        kind = self.number("I")
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        return self.string() if kind == STRING else self.number(_code(kind))

    def array(self, kind: int, length: int) -> list[Any] | Array:
        """Read the elements, or skip an array that is long or of strings."""
        found = Array(kind, length, self.place)
        if kind == STRING:
            if length > MOST_STRINGS:
                raise ValueError(f"an array has {length} texts, expected at most {MOST_STRINGS}")
            for _ in range(length):
                self.skip(self.number("Q"))
            return found
        code = _code(kind)
        if length > LONG:
            self.skip(length * struct.calcsize("<" + code))
            return found
        return [self.number(code) for _ in range(length)]


def _code(kind: int) -> str:
    if kind not in SCALARS:
        raise ValueError(f"a value has type {kind}, expected one of {sorted((*SCALARS, STRING, ARRAY))}")
    return SCALARS[kind]


def read_header(path: Path) -> Header:
    """Read the header of the file at `path`. Raises CheckpointError."""
    return _with_cursor(path, _parse)


def read_array(path: Path, array: Array) -> list[Any]:
    """Read the elements of an array that `read_header` has skipped. Raises CheckpointError."""

    def elements(cursor: _Cursor) -> list[Any]:
        cursor.skip(array.place)
        if array.kind == STRING:
            return [cursor.string() for _ in range(array.length)]
        form = struct.Struct(f"<{array.length}{_code(array.kind)}")
        cursor.skip(form.size)
        return list(form.unpack_from(cursor.buffer, array.place))

    return _with_cursor(path, elements)


def _with_cursor(path: Path, read: Callable[[_Cursor], T]) -> T:
    if size(path) < 4:
        raise CheckpointError(f"{path} cannot be read: it has {size(path)} bytes")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return read(_Cursor(buffer))
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise unreadable(path, error) from None


def _parse(cursor: _Cursor) -> Header:
    magic, version = cursor.number("4s"), cursor.number("I")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(
            f"it begins with {magic!r}, version {version}, expected b'GGUF', version 2 or 3, little-endian"
        )
    tensor_count = cursor.number("Q")
    value_count = cursor.number("Q")
    values: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for _ in range(value_count):
        name = cursor.string()
        if name in values or name in arrays:
            raise ValueError(f"{name} is there twice")
        value = cursor.value()
        if isinstance(value, Array):
            arrays[name] = value
        else:
            values[name] = value
    tensors: dict[str, Entry] = {}
    for _ in range(tensor_count):
        name = cursor.string()
        if name in tensors:
            raise ValueError(f"tensor {name} is there twice")
        tensors[name] = _entry(cursor, name)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}, expected a positive integer")
    return Header(values, arrays, tensors, math.ceil(cursor.place / alignment) * alignment)


def _entry(cursor: _Cursor, name: str) -> Entry:
    axes = cursor.number("I")
    if not 1 <= axes <= MAX_AXES:
        raise ValueError(f"tensor {name} has {axes} axes, expected 1 to {MAX_AXES}")
    sizes = [cursor.number("Q") for _ in range(axes)]
    return Entry(tuple(reversed(sizes)), cursor.number("I"), cursor.number("Q"))
