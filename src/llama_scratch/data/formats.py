"""The format of a file, by its name and first bytes: its encoding, or why it cannot be read as text.

Unicode text with a byte-order mark is read (The Unicode Standard 16.0, table 23-6). For other common formats of data
sets the error says how to convert them to text or .jsonl.
"""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from llama_scratch.data.errors import DataError

# the mark of little-endian UTF-32 begins with that of UTF-16, so it comes first
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
PANDAS = (
    'python -c "import sys, pandas; pandas.{reader}(sys.argv[1]).to_json(sys.argv[2], '
    """orient='records', lines=True)" {name} {stem}.jsonl"""
)
DATASETS = 'python -c "import sys, datasets; datasets.Dataset.from_file(sys.argv[1]).to_json(sys.argv[2])" '
CSV = (
    'python -c "import csv, json, sys; csv.field_size_limit(2**30); [print(json.dumps(row)) for row in '
    """csv.DictReader(open(sys.argv[1], encoding='utf-8-sig', newline=''), delimiter='{delimiter}')]" """
    "{name} > {stem}.jsonl"
)
COLUMN = "then name the column that holds the text by --text-field"
TO_TEXT = "convert it to text, for instance: pandoc -t plain -o {stem}.txt {name}"
UNPACK = "unpack it, and name the text files in it or their folder"
# suffix -> what it is, what to do
SUFFIXES = {
    ".csv": ("a table (CSV)", f"convert it to .jsonl: {CSV}; {COLUMN}"),
    ".tsv": ("a table (TSV)", f"convert it to .jsonl: {CSV}; {COLUMN}"),
    ".ipynb": ("a notebook", "convert it to text: jupyter nbconvert --to markdown {name}"),
    ".rtf": ("a Rich Text document", TO_TEXT),
}
# first bytes -> the same; for a zip archive the suffix decides
ZIP = b"PK\x03\x04"
BEGINNINGS = {
    b"PAR1": ("a Parquet file", f"convert it to .jsonl: {PANDAS} (with pandas and pyarrow installed); {COLUMN}"),
    b"ARROW1": ("an Arrow file", f"convert it to .jsonl: {PANDAS} (with pandas and pyarrow installed); {COLUMN}"),
    b"\xff\xff\xff\xff": ("an Arrow stream", f"convert it to .jsonl: {DATASETS}{{name}} {{stem}}.jsonl; {COLUMN}"),
    b"%PDF": ("a PDF document", "convert it to text, for instance: pdftotext {name} {stem}.txt"),
    b"{\\rtf": ("a Rich Text document", TO_TEXT),
    b"\xd0\xcf\x11\xe0": ("an old Office document", "save it as plain text (UTF-8) in the program that opens it"),
    b"\x1f\x8b": ("packed by gzip", "give it a name that ends in .gz, for instance {name}.gz"),
    b"BZh": ("packed by bzip2", "unpack it: bunzip2 {name}"),
    b"\xfd7zXZ": ("packed by xz", "unpack it: unxz {name}"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it: unzstd {name}"),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"version https://git-lfs": ("a git-lfs pointer, not the file itself", "fetch the file: git lfs pull"),
}
ARCHIVES = {
    ".docx": ("a Word document", TO_TEXT),
    ".odt": ("an OpenDocument text", TO_TEXT),
    ".epub": ("a book (EPUB)", TO_TEXT),
    ".xlsx": ("a spreadsheet", f"convert it to .jsonl: {PANDAS} (with pandas and openpyxl installed); {COLUMN}"),
    ".pptx": ("a presentation", "save it as plain text (UTF-8) in the program that opens it"),
}
READERS = {"a Parquet file": "read_parquet", "an Arrow file": "read_feather", "a spreadsheet": "read_excel"}
TAR = slice(257, 262)


def suffix(file: Path) -> str:
    """Suffix that tells the format of a file, gzipped or not."""
    return Path(file.name.removesuffix(".gz")).suffix


def encoding(path: Path, beginning: bytes) -> tuple[str, int]:
    """Return the encoding of a text that begins with these bytes, and the length of its byte-order mark.

    Raises DataError, saying what to do, for a file that is not a text.
    """
    found = _known(path, beginning)
    if found is not None:
        what, remedy = found
        raise DataError(f"{path} is {what}; {_filled(remedy, path, what)}")
    for mark, name in MARKS:
        if beginning.startswith(mark):
            return name, len(mark)
    if b"\0" in beginning:
        raise DataError(f"{path} {_of_zeros(path, beginning)}")
    return "utf-8", 0


def not_text(path: Path, name: str, place: int, byte: int, line: int) -> DataError:
    """Make the error for a byte that is not part of any character."""
    remedy = f"iconv -f WINDOWS-1252 -t UTF-8 {_quoted(path)} > {_quoted(path.with_suffix('.utf8.txt'))}"
    return DataError(
        f"{path} is not {name.upper()}: byte {place} is 0x{byte:02x}, in line {line}; if it is text in another "
        f"encoding, convert it, for instance: {remedy}"
    )


def _known(path: Path, beginning: bytes) -> tuple[str, str] | None:
    if beginning.startswith(ZIP):
        return ARCHIVES.get(path.suffix.lower(), ("a zip archive", UNPACK))
    for start, found in BEGINNINGS.items():
        if beginning.startswith(start):
            return found
    if beginning[TAR] == b"ustar":
        return "a tar archive", "unpack it (tar xf), and name the text files in it or their folder"
    return SUFFIXES.get(suffix(path).lower())


def _of_zeros(path: Path, beginning: bytes) -> str:
    """UTF-16 without a mark has a zero in every second byte of Western text; anything else with zeros is not text."""
    for order, place in (("LE", 1), ("BE", 0)):
        if beginning[place::2].count(0) > len(beginning) // 4 and not beginning[1 - place :: 2].count(0):
            target = _quoted(path.with_suffix(".utf8.txt"))
            remedy = f"iconv -f UTF-16{order} -t UTF-8 {_quoted(path)} > {target}"
            return f"looks like UTF-16 without a byte-order mark; convert it: {remedy}"
    return f"is not text: byte {beginning.index(0)} is 0; expected UTF-8 text, or .jsonl; leave it out or convert it"


def _filled(remedy: str, path: Path, what: str) -> str:
    unpacked = path.with_name(path.name.removesuffix(".gz"))
    first = "" if unpacked == path or what == "a tar archive" else f"unpack it by gunzip {_quoted(path)}, then "
    values = {
        "name": _quoted(unpacked),
        "stem": _quoted(unpacked.with_suffix("")),
        "reader": READERS.get(what),
        "delimiter": "\\t" if unpacked.suffix.lower() == ".tsv" else ",",
    }
    return first + remedy.format(**values)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
