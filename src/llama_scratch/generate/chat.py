"""Messages -> ids, by the chat template of a checkpoint: chat_template.jinja, or `chat_template` of
tokenizer_config.json.

A template writes special tokens and what people have said into one text. Here only what the template itself writes can
become a special token: "</s>" in a message stays the four characters that it is, so nobody can end a turn from inside
one. To know which is which the template is rendered twice, with the messages and with marks in their place, and what
stands where a mark stands is text. Between two special tokens everything is encoded together, as transformers does: an
ordinary conversation gets `apply_chat_template`'s ids.

A template is a program, and runs in Jinja's sandbox: it sees the messages and the names of special tokens, no files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llama_scratch.tokenizer.files import naming, read_file, read_settings, token_name
from llama_scratch.tokenizer.tokenizer import CONFIG, OLD_CONFIG, Tokenizer, TokenizerError

ROLE = re.compile(r"[\w-]+")
TEMPLATE = "chat_template.jinja"
Message = Mapping[str, str]  # role and content


class ChatError(ValueError):
    """A template, or messages that it cannot be used for; the message is one line that says why."""


class ChatTemplate:
    """Renders messages, each a mapping of `role` and `content`, and a beginning of the answer."""

    def __init__(self, template: str, tokenizer: Tokenizer, names: Mapping[str, str] | None = None) -> None:
        """`names`: what the template may call bos_token, eos_token and so on; by default, those two of the tokenizer.

        Raises ChatError for what is no template.
        """
        special = {i: name for name, i in tokenizer.special_tokens.items()}
        ends = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        self._names = {key: special[i] for key, i in ends.items() if i is not None} | dict(names or {})
        self._tokenizer, self._source = tokenizer, template
        longest_first = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        try:
            self._template = _environment().from_string(template)
        except jinja2.TemplateError as error:
            raise ChatError(f"no chat template: {error}") from None

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template in `directory`; None where there is none. Raises TokenizerError or ChatError naming the file."""
        path = Path(directory) / TEMPLATE
        settings = read_settings(Path(directory) / OLD_CONFIG) | read_settings(Path(directory) / CONFIG)
        template: str | None
        if path.exists():
            try:
                template = read_file(path).decode()
            except UnicodeDecodeError as error:
                raise TokenizerError(f"{path} is no UTF-8: {error.reason} at byte {error.start}") from None
        else:
            path = Path(directory) / CONFIG
            with naming(path):
                template = _default(settings.get("chat_template"))
        if template is None:
            return None
        with naming(Path(directory) / CONFIG):
            names = {key: name for key in settings if key.endswith("_token") and (name := token_name(settings, key))}
        try:
            return cls(template, tokenizer, names)
        except ChatError as error:
            raise ChatError(f"{path}: {error}") from None

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the answer begins. Special tokens are the template's alone.

        A message may be stripped of the spaces around it. A template that does more to one than that leaves no mark to
        follow: it is rendered as it is, as long as no message has the name of a special token in it. Raises ChatError
        for one that has, for what the template itself refuses, and for half of a surrogate pair.
        """
        for message in messages:
            if not ROLE.fullmatch(message["role"]):
                raise ChatError(f"the role is {message['role'][:80]!r}, expected a word, for instance 'user'")
        ids: list[int] = []
        for is_special, text in self._parts(messages):
            special = self._tokenizer.special_tokens
            ids += [special[text]] if is_special else self._tokenizer.encode(text, follows=bool(ids))
        return ids

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation up to where the answer begins. Raises ChatError."""
        given = [dict(message) for message in messages]
        try:
            return self._template.render(
                messages=given, tools=None, documents=None, add_generation_prompt=True, **self._names
            )
        except Exception as error:  # whatever a template may do wrong
            raise ChatError(f"the chat template refuses these messages: {error}") from None

    def _parts(self, messages: Sequence[Message]) -> list[tuple[bool, str]]:
        """The rendered text cut at its special tokens: whether it is one, and the text."""
        contents = [message["content"] for message in messages]
        word = next(word for word in map("said{}at".format, count()) if word not in self._source)
        marks = [f"{word}{i}." if content.strip() else content for i, content in enumerate(contents)]
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        text, frame = self.render(messages), re.split(rf"{word}(\d+)\.", self.render(marked))
        frame[1::2] = [contents[int(i)] for i in frame[1::2]]
        said = _what_was_said(text, frame)
        if said is None:
            return self._parts_as_it_is(text, "".join(frame[::2]), contents)
        parts = [(False, "")]
        for own, message in zip(frame[::2], [*said, ""], strict=True):
            for i, piece in enumerate(self._special.split(own)):
                if i % 2:
                    parts += [(True, piece), (False, "")]
                else:
                    parts[-1] = (False, parts[-1][1] + piece)
            parts[-1] = (False, parts[-1][1] + message)
        return [part for part in parts if part[1]]

    def _parts_as_it_is(self, text: str, own: str, contents: Sequence[str]) -> list[tuple[bool, str]]:
        """Where it cannot be told what is the template's: every special token is, if it cannot be anybody else's."""
        pieces = self._special.split(text)
        if pieces[1::2] != self._special.findall(own) or any(map(self._special.search, contents)):
            raise ChatError(
                "there is a special token's name in a message, and the chat template changes messages, so that it "
                "cannot be told from the template's own"
            )
        return [(bool(i % 2), piece) for i, piece in enumerate(pieces) if piece]


def _what_was_said(text: str, frame: Sequence[str]) -> list[str] | None:
    """What stands in `text` in place of every second part of `frame`: that, or that without the spaces around it. None
    where something else does.
    """
    pattern = ""
    for i, part in enumerate(frame):
        forms = [part, part.strip(), part.lstrip(), part.rstrip()] if i % 2 else [part]
        pattern += f"({'|'.join(map(re.escape, forms))})"
    found = re.fullmatch(pattern, text)
    return list(found.groups()[1::2]) if found else None


def _default(found: Any) -> str | None:
    """The template that tokenizer_config.json gives: a text, or several by name, of which one is the default."""
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise TokenizerError(f"chat_template is {str(found)[:80]}, expected a text, or a list with one named 'default'")
    return found


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers'."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:  # fmt: skip
    """Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
