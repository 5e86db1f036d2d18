"""Read the files of a tokenizer: bytes of a bounded size, settings in JSON, the tokens that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint.files import CheckpointError, size
from llama_scratch.checkpoint.hints import refuse_pointer
from llama_scratch.errors import LlamaScratchError

# a file is read as a whole, so its size is checked first; Llama 3's tokenizer.json, one of the largest, has 17 MB
LARGEST = 1 << 28
USUAL = {"bos_token": ("<s>", "<|begin_of_text|>"), "eos_token": ("</s>", "<|end_of_text|>")}


class TokenizerError(LlamaScratchError):
    """A tokenizer that cannot be loaded, used or trained; the message is one line that says which file and why."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to a TokenizerError that is raised inside."""
    try:
        yield
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def read_file(path: Path) -> bytes:
    """Read a file. Raises TokenizerError if it cannot be read or is larger than any tokenizer."""
    try:
        length = size(path)
        if length > LARGEST:
            raise TokenizerError(f"{path} has {length} bytes, expected at most {LARGEST}")
        refuse_pointer(path)
        return path.read_bytes()
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises TokenizerError without the file's name."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:  # RecursionError: nested deeper than any tokenizer is
        raise TokenizerError(f"no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise TokenizerError(f"holds {type(parsed).__name__}, expected an object")
    return parsed


def read_settings(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; empty if there is no file. Raises TokenizerError naming the file."""
    if not path.exists():
        return {}
    content = read_file(path)
    with naming(path):
        return parse_object(content)


def token_name(settings: Mapping[str, Any], key: str) -> str | None:
    """Name of the token `key` ("bos_token") in tokenizer_config.json: a string, or an object with `content`; null and
    "" mean none. Raises TokenizerError for another type.
    """
    found = settings.get(key)
    name = found.get("content") if isinstance(found, dict) else found
    if name is not None and not isinstance(name, str):
        raise TokenizerError(f"{key} is {str(found)[:80]}, expected a token")
    return name or None


def named_token(settings: Mapping[str, Any], key: str, known: Mapping[str, int]) -> int | None:
    """Id of the token that is called `key`; without a setting, of the special token with the usual name.

    Raises TokenizerError for a name that is not a special token.
    """
    if key not in settings:
        return next((known[name] for name in USUAL[key] if name in known), None)
    name = token_name(settings, key)
    if name is not None and name not in known:
        raise TokenizerError(f"{key} is {name[:80]!r}, expected one of the tokens")
    return None if name is None else known[name]
