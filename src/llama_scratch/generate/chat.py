"""Messages -> ids, by the chat template of a checkpoint: chat_template.jinja, or `chat_template` of
tokenizer_config.json.

A template writes special tokens and messages into one text. Here only what the template itself writes can become a
special token: "</s>" in a message stays four characters, so a message cannot end its turn. To separate the two, the
template is rendered twice, with the messages and with marks in their place; what replaces a mark is text. Everything
between two special tokens is encoded together, as in transformers: an ordinary conversation gets the ids of
`apply_chat_template`.

A template is a program, and runs in Jinja's sandbox: it has access to the messages and the names of special tokens, but
not to files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, repeat
from pathlib import Path
from typing import Any

import jinja2

from llama_scratch.errors import LlamaScratchError
from llama_scratch.generate.chat_environment import environment, plain
from llama_scratch.tokenizer import Tokenizer
from llama_scratch.tokenizer.settings import CONFIG, TEMPLATE, read_directory_settings, read_templates, token_names

ROLE = re.compile(r"[\w-]+")
SPACES_BEFORE, SPACES_AFTER = re.compile(r"[^\S\x1c-\x1f]+\Z"), re.compile(r"\A[^\S\x1c-\x1f]+")
TO_BE_CONTINUED = "to be continued here "  # a template may strip the space
REASONING = ("reasoning_content", "thinking", "reasoning")
Message = Mapping[str, Any]  # role, content (a text, or a list of parts), and other keys of the template


class ChatError(LlamaScratchError, ValueError):
    """An invalid template, or messages that it cannot render; the message is one line that says why."""


class ChatTemplate:
    """Renders messages, each a mapping with `role`, `content` and other keys of the template, up to the answer.

    `render` and `encode` take the arguments of transformers' apply_chat_template: `tools`, as JSON schemas,
    `documents`, and other variables by name; `add_generation_prompt` (default: True); and `continue_final_message`,
    for a last message that is the beginning of the answer: True continues its `content`, a name another field.
    """

    def __init__(
        self, template: str | Mapping[str, str], tokenizer: Tokenizer, names: Mapping[str, str] | None = None
    ) -> None:
        """template: a text, or several by name: "default", and "tool_use" for conversations with tools. names:
        bos_token, eos_token and so on, as the template may use them (default: the tokenizer's).

        Raises ChatError for an invalid template.
        """
        self._sources = {"default": template} if isinstance(template, str) else dict(template)
        if "default" not in self._sources:
            listed = ", ".join(sorted(self._sources))
            raise ChatError(f"the chat templates are called {listed}, expected one that is called 'default'")
        self._names = dict(tokenizer.names) | dict(names or {})
        self._tokenizer = tokenizer
        longest_first = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        try:
            self._templates = {name: environment().from_string(text) for name, text in self._sources.items()}
        except jinja2.TemplateError as error:
            raise ChatError(f"not a chat template: {error}") from None

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], tokenizer: Tokenizer) -> ChatTemplate | None:
        """Load the template in `directory`; None if it has none. Raises TokenizerError or ChatError naming the file."""
        directory = Path(directory)
        settings = read_directory_settings(directory)
        templates = read_templates(directory, settings)
        if not templates:
            return None
        try:
            return cls(templates, tokenizer, token_names(settings))
        except ChatError as error:
            path = directory / (TEMPLATE if (directory / TEMPLATE).exists() else CONFIG)
            raise ChatError(f"{path}: {error}") from None

    def encode(self, messages: Sequence[Any], **given: Any) -> list[int]:
        """Encode a conversation up to the beginning of the answer; only the template writes special tokens.

        The template may strip the spaces around a message. If it changes messages further, marks cannot be followed:
        then the text is encoded as it is, provided that no message contains the name of a special token. Raises
        ChatError for one that does, for one in tools and other variables, for what the template itself refuses, and for
        half of a surrogate pair.
        """
        if not messages:
            raise ChatError("there is no message, expected at least one")
        messages = [_checked(number, message) for number, message in enumerate(messages, start=1)]
        self._check_other_strings(messages, given)
        ids: list[int] = []
        for is_special, text in self._without_stripped_spaces(self._parts(messages, given)):
            special = self._tokenizer.special_tokens
            ids += [special[text]] if is_special else self._tokenizer.encode(text, follows=bool(ids))
        return ids

    def render(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | str = False,
        **variables: Any,
    ) -> str:
        """Render a conversation up to the beginning of the answer. Raises ChatError."""
        if add_generation_prompt and continue_final_message:
            raise ChatError("add_generation_prompt and continue_final_message are given, expected one of them")
        given = [_with_reasoning(_without_none(plain(message))) for message in messages]
        prompts = not continue_final_message if add_generation_prompt is None else add_generation_prompt
        name = "tool_use" if tools is not None and "tool_use" in self._templates else "default"
        if continue_final_message:
            field = continue_final_message if isinstance(continue_final_message, str) else "content"
            last = _marked_end(given, field, self._sources[name])
        try:
            text = self._templates[name].render(
                messages=given,
                tools=_schemas(tools),
                documents=plain(documents),
                add_generation_prompt=prompts,
                **self._names | plain(variables),
            )
        except Exception as error:  # a template may raise anything
            raise ChatError(f"the chat template refuses these messages: {error}{_unusual(given)}") from None
        return _cut(text, last) if continue_final_message else text

    def _check_other_strings(self, messages: Sequence[Message], given: Mapping[str, Any]) -> None:
        """Raise ChatError for the name of a special token outside of the texts of messages."""
        places: dict[str, Any] = {}
        for number, message in enumerate(messages, start=1):
            places[f"message {number}"] = _with_texts(message, repeat(""))
        for place, value in [*places.items(), *given.items()]:
            for text in _strings(value):
                match = self._special.search(text)
                if match is not None:
                    name = match[0]
                    raise ChatError(f"{place} has the special token's name {name!r} outside of its text, expected none")

    def _parts(self, messages: Sequence[Message], given: Mapping[str, Any]) -> list[tuple[bool, str]]:
        """Render the text, and split it at its special tokens: (is special, text)."""
        contents = [text for message in messages for text in _texts(message.get("content"))]
        sources = "".join(self._sources.values())
        word = next(word for word in map("mark{}at".format, count()) if word not in sources)
        marks = iter([f"{word}{i}." if content.strip() else content for i, content in enumerate(contents)])
        marked = [_with_texts(message, marks) for message in messages]
        text = self.render(messages, **given)
        frame = re.split(rf"{word}(\d+)\.", self.render(marked, **given))
        frame[1::2] = [contents[int(i)] for i in frame[1::2]]
        messages_in_text = _replaced_marks(text, frame)
        if messages_in_text is None:
            return self._unmarked_parts(text, "".join(frame[::2]), contents)
        parts = [(False, "")]
        for own, content in zip(frame[::2], [*messages_in_text, ""], strict=True):
            for i, piece in enumerate(self._special.split(own)):
                if i % 2:
                    parts += [(True, piece), (False, "")]
                else:
                    parts[-1] = (False, parts[-1][1] + piece)
            parts[-1] = (False, parts[-1][1] + content)
        return parts

    def _without_stripped_spaces(self, parts: Sequence[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
        """Remove the spaces that special tokens strip, and then empty parts."""
        for i, (is_special, text) in enumerate(parts):
            if not is_special:
                before = parts[i - 1][1] if i > 0 else ""
                after = parts[i + 1][1] if i + 1 < len(parts) else ""
                if self._tokenizer.strips.get(after, (False, False))[0]:
                    text = SPACES_BEFORE.sub("", text)
                if self._tokenizer.strips.get(before, (False, False))[1]:
                    text = SPACES_AFTER.sub("", text)
            if text:
                yield is_special, text

    def _unmarked_parts(self, text: str, own: str, contents: Sequence[str]) -> list[tuple[bool, str]]:
        """Fallback when template and message text cannot be separated: special tokens are the template's, provided no
        message contains one.
        """
        pieces = self._special.split(text)
        if pieces[1::2] != self._special.findall(own) or any(map(self._special.search, contents)):
            raise ChatError(
                "there is a special token's name in a message, and the chat template changes messages, so that it "
                "cannot be told from the template's own"
            )
        return [(bool(i % 2), piece) for i, piece in enumerate(pieces)]


def _replaced_marks(text: str, frame: Sequence[str]) -> list[str] | None:
    """Match `text` with `frame`, whose every second part is a message: as it is, or without the spaces around it.

    Returns the messages as they are in the text; None if it does not match.
    """
    pattern = ""
    for i, part in enumerate(frame):
        forms = [part, part.strip(), part.lstrip(), part.rstrip()] if i % 2 else [part]
        pattern += f"({'|'.join(map(re.escape, forms))})"
    match = re.fullmatch(pattern, text)
    return list(match.groups()[1::2]) if match else None


def _checked(number: int, message: Any) -> Message:
    """Copy a message without keys that are None. Raises ChatError if it has no role."""
    if not isinstance(message, Mapping):
        raise ChatError(f"message {number} is {str(message)[:80]!r}, expected an object with role and content")
    message = _without_none(plain(message))
    role = message.get("role")
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        problem = f"the role is {str(role)[:80]!r}" if role is not None else "there is no role"
        raise ChatError(f"message {number}: {problem}, expected a word, for instance 'user'")
    return message


def _without_none(message: Message) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Give the reasoning before an answer under every name that templates use for it."""
    reasoning = next((message[key] for key in REASONING if key in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a content: itself, or its parts, which are texts or objects with `text`."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, Mapping) and isinstance(content.get("text"), str):
        yield content["text"]


def _with_texts(message: Message, texts: Iterator[str]) -> dict[str, Any]:
    """Replace the texts of a message."""

    def changed(content: Any) -> Any:
        if isinstance(content, str):
            return next(texts)
        if isinstance(content, list | tuple):
            return type(content)([changed(part) for part in content])
        if isinstance(content, Mapping) and isinstance(content.get("text"), str):
            return {**content, "text": next(texts)}
        return content

    return {key: changed(value) if key == "content" else value for key, value in message.items()}


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in `value`, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _schemas(tools: Sequence[Any] | None) -> Any:
    """Raise ChatError for a function, which transformers would convert to a schema."""
    for number, tool in enumerate(tools or [], start=1):
        if not isinstance(tool, Mapping):
            how = "transformers.utils.get_json_schema makes one of a function"
            raise ChatError(f"tool {number} is {type(tool).__name__}, expected a JSON schema as a dict; {how}")
    return plain(tools)


def _marked_end(messages: Sequence[dict[str, Any]], field: str, template: str) -> str:
    """Mark the end of the last message, in place, and return its text. Raises ChatError."""
    if not messages:
        raise ChatError("there is no message, expected one to continue")
    message = messages[-1]
    number = len(messages)
    fields = [key for key in REASONING if message.get(key) == message.get(field)] if field in REASONING else [field]
    if message.get(field) is None or not any(key in template for key in fields):
        where = f"message {number}" if message.get(field) is None else "the chat template"
        raise ChatError(f"{where} has no {field!r}, expected one to continue")
    if isinstance(message[field], str):
        text = message[field]
        message.update(dict.fromkeys(fields, text + TO_BE_CONTINUED))
        return text
    parts = message[field] if isinstance(message[field], list | tuple) else []
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = part["text"]
            part["text"] = text + TO_BE_CONTINUED
            return text
    raise ChatError(f"message {number} has no text in its {field!r}, expected one to continue")


def _cut(text: str, last: str) -> str:
    """Cut the text at the marked end of the last message. Raises ChatError if the template has dropped it."""
    end = text.rfind(TO_BE_CONTINUED.strip())
    if end < 0 or last.strip() not in text:
        raise ChatError("the chat template does not write the last message as it is, so it cannot be continued")
    return text[:end] if text.startswith(TO_BE_CONTINUED, end) else text[:end].rstrip()


def _unusual(messages: Sequence[Message]) -> str:
    """Hint at the first message whose content is not a text."""
    for number, message in enumerate(messages, start=1):
        content = message.get("content")
        if not isinstance(content, str):
            what = "no content" if content is None else f"content of type {type(content).__name__}"
            return f"; message {number} ({message.get('role')}) has {what}, where most templates expect a text"
    return ""
