"""The tokenizer of a GGUF file, checked: `tokenizer.ggml.*` and `tokenizer.chat_template`.

ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.gguf_header import Array, Header, read_array, read_header
from llama_scratch.tokenizer.files import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
KINDS = range(7)  # 0 is "undefined", and read as normal
PREFIX, TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
LONGEST_TOKEN = 4096  # bytes
MOST_TOKENS = 1 << 20  # no Llama has more than a quarter of it


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF file's tokenizer. What the file lacks is None, or empty."""

    model: str
    """'llama' for SentencePiece's pieces with scores, 'gpt2' for bytes with merges; there are others."""
    pre: str | None
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]
    """Ids of 'bos', 'eos', 'unk' and 'pad' that the file has."""
    flags: dict[str, bool]
    """add_bos_token, add_eos_token, add_space_prefix, remove_extra_whitespaces."""
    templates: dict[str, str]
    """Chat templates by name; the usual one is 'default'."""


def read_vocabulary(path: Path) -> Vocabulary | None:
    """Read the tokenizer in a GGUF file; None if it has none. Raises TokenizerError naming file and key."""
    try:
        header = read_header(path)
        if header.values.get(PREFIX + "model") in (None, "none", "no_vocab"):
            return None
        return _vocabulary(path, header)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None


def _vocabulary(path: Path, header: Header) -> Vocabulary:
    values = header.values
    tokens = _array(path, header, "tokens", str, None)
    if not 0 < len(tokens) <= MOST_TOKENS:
        raise TokenizerError(f"{PREFIX}tokens has {len(tokens)} tokens, expected 1 to {MOST_TOKENS}")
    kinds = _array(path, header, "token_type", int, len(tokens))
    vocabulary = Vocabulary(
        model=_text(values, PREFIX + "model") or "",
        pre=_text(values, PREFIX + "pre"),
        tokens=[token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)],  # llama.cpp's name for it
        kinds=[kind or NORMAL for kind in kinds],
        scores=_array(path, header, "scores", (int, float), len(tokens)),
        merges=_array(path, header, "merges", str, None),
        ids=_ids(values, len(tokens)),
        flags=_flags(values),
        templates=_templates(values),
    )
    _check(vocabulary)
    return vocabulary


def _array(path: Path, header: Header, name: str, kind: Any, length: int | None) -> list[Any]:
    """Read the elements of an array; none if it is missing. Raises TokenizerError."""
    found = header.arrays.get(PREFIX + name, header.values.get(PREFIX + name, []))
    if not isinstance(found, Array | list):
        raise TokenizerError(f"{PREFIX}{name} is {str(found)[:80]!r}, expected an array")
    stored = found.length if isinstance(found, Array) else len(found)
    if stored > 8 * MOST_TOKENS or (stored and length is not None and stored != length):
        expected = length if length is not None else f"at most {8 * MOST_TOKENS}"
        raise TokenizerError(f"{PREFIX}{name} has {stored} elements, expected {expected}")
    elements = read_array(path, found) if isinstance(found, Array) else found
    for i, element in enumerate(elements):
        if not isinstance(element, kind) or isinstance(element, bool):
            raise TokenizerError(f"{PREFIX}{name} has {str(element)[:80]!r} at {i}, of another type than expected")
    return elements


def _check(vocabulary: Vocabulary) -> None:
    seen: dict[str, int] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token in seen:
            raise TokenizerError(f"{PREFIX}tokens has {token[:80]!r} twice, at {seen[token]} and {i}")
        if len(token) > LONGEST_TOKEN:
            raise TokenizerError(f"{PREFIX}tokens has {len(token)} characters at {i}, expected up to {LONGEST_TOKEN}")
        seen[token] = i
    wrong = [kind for kind in vocabulary.kinds if kind not in KINDS]
    if wrong:
        raise TokenizerError(f"{PREFIX}token_type has {wrong[0]}, expected 0 to {KINDS[-1]}")


def _text(values: Mapping[str, Any], key: str) -> str | None:
    found = values.get(key)
    if found is not None and not isinstance(found, str):
        raise TokenizerError(f"{key} is {str(found)[:80]}, expected a text")
    return found


def _ids(values: Mapping[str, Any], count: int) -> dict[str, int]:
    ids = {}
    for name, key in IDS.items():
        found = values.get(PREFIX + key)
        if found is None:
            continue
        if type(found) is not int or not 0 <= found < count:
            raise TokenizerError(f"{PREFIX}{key} is {str(found)[:80]}, expected an id below {count}")
        ids[name] = found
    return ids


def _flags(values: Mapping[str, Any]) -> dict[str, bool]:
    flags = {}
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces"):
        found = values.get(PREFIX + name)
        if found is None:
            continue
        if not isinstance(found, bool):
            raise TokenizerError(f"{PREFIX}{name} is {str(found)[:80]}, expected true or false")
        flags[name] = found
    return flags


def _templates(values: Mapping[str, Any]) -> dict[str, str]:
    templates = {}
    for key in values:
        if key == TEMPLATE or key.startswith(TEMPLATE + "."):
            name = key.removeprefix(TEMPLATE).removeprefix(".") or "default"
            templates[name] = _text(values, key) or ""
    return {name: template for name, template in templates.items() if template}
