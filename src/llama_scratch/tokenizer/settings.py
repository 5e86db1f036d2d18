"""The other files of a tokenizer: settings, names of tokens, chat templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_scratch.tokenizer.files import TokenizerError, read_file, read_settings, token_name

JSON, MODEL = "tokenizer.json", "tokenizer.model"
CONFIG, OLD_CONFIG, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEMPLATE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
# vocab.json and merges.txt: older forms of tokenizer.json, which other programs still read
FILES = (MODEL, JSON, CONFIG, OLD_CONFIG, ADDED, TEMPLATE, "vocab.json", "merges.txt")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# tokenizer_class -> transformers' default names of these tokens
CLASSES: dict[str, dict[str, str | None]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
}


def tokenizer_files(directory: Path) -> list[Path]:
    """List the files in `directory` that belong to its tokenizer."""
    found = [directory / name for name in FILES]
    return [path for path in found if path.is_file()] + more_templates(directory)


def more_templates(directory: Path) -> list[Path]:
    """List the files of named chat templates."""
    return sorted(path for path in (directory / MORE_TEMPLATES).glob("*.jinja") if path.is_file())


def read_kept(directory: Path) -> dict[str, bytes]:
    """Read the files that are saved unchanged: all but settings and tokenizer.json. Raises TokenizerError."""
    paths = [path for path in tokenizer_files(directory) if path.name not in (JSON, CONFIG)]
    return {path.relative_to(directory).as_posix(): read_file(path) for path in paths}


def read_directory_settings(directory: Path) -> dict[str, Any]:
    """Read tokenizer_config.json. In directories from before 2023, whose tokenizer_config.json does not list the added
    tokens, special_tokens_map.json overrides it, as in transformers. Raises TokenizerError naming the file.
    """
    settings = read_settings(directory / CONFIG)
    return settings if "added_tokens_decoder" in settings else settings | read_settings(directory / OLD_CONFIG)


def token_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Map each key of the settings that names a token, "bos_token" and so on, to the name.

    Keys such as add_bos_token end in _token, too, but are booleans. Raises TokenizerError if a usual key does not name
    a token.
    """
    usual = {key: token_name(settings, key) for key in NAMED}
    more = settings.get("extra_special_tokens")
    named = {key: value for key, value in settings.items() if key.endswith("_token") and key not in NAMED}
    own = {key: _text(value) for key, value in (named | (more if isinstance(more, dict) else {})).items()}
    return {key: name for key, name in (usual | own).items() if name}


def all_names(settings: Mapping[str, Any], own: Mapping[str, str | None]) -> dict[str, str]:
    """Names of tokens: by the settings, else by the tokenizer's file, else by its class in transformers."""
    kind = str(settings.get("tokenizer_class")).removesuffix("Fast")
    named = {**CLASSES.get(kind, {}), **own}
    return {key: name for key, name in named.items() if name and key not in settings} | token_names(settings)


def more_special(settings: Mapping[str, Any]) -> list[str]:
    """List the special tokens without a key."""
    found = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    return [name for name in map(_text, found) if name] if isinstance(found, list) else []


def _text(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def read_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Read the chat templates in `directory` by name; the one without a name is "default". Files take precedence over
    tokenizer_config.json. Raises TokenizerError naming the file.
    """
    found = {path.stem: _read_text(path) for path in more_templates(directory)}
    if (directory / TEMPLATE).exists():
        found["default"] = _read_text(directory / TEMPLATE)
    return found or dict(_configured(settings.get("chat_template"), directory / CONFIG))


def _read_text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _configured(found: Any, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the templates of tokenizer_config.json: a text, or several by name, as an object or a list."""
    if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        found = {entry.get("name"): entry.get("template") for entry in found}
    if found is None:
        return
    templates = found if isinstance(found, dict) else {"default": found}
    for name, template in templates.items():
        if not isinstance(name, str) or not isinstance(template, str):
            expected = "a text, or a list of objects with name and template"
            raise TokenizerError(f"{path}: chat_template is {str(found)[:80]}, expected {expected}")
        yield name, template
