"""Conversations -> text and ids, by the chat template of a tokenizer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from llama_scratch.data.errors import DataError
from llama_scratch.generate.chat import ChatError, ChatTemplate
from llama_scratch.tokenizer import Tokenizer

REMEDY = (
    "start from a checkpoint with a chat template by --init-from (--tokenizer of llama_scratch.data), or give each "
    "conversation as one text in a field that --text-field names"
)


class Chats:
    """The chat template in `directory`, loaded at the first conversation: a text without any needs none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Render the whole conversation as text. Raises DataError if there is no template, or if it refuses."""
        try:
            text = self._template.render(messages, add_generation_prompt=False)
            text.encode()
        except ChatError as error:
            raise DataError(str(error)) from None
        except UnicodeEncodeError as error:
            raise DataError(f"half of a surrogate pair after {text[: error.start][-40:]!r}; correct it") from None
        return text

    def encode(self, messages: list[dict[str, Any]]) -> list[int]:
        """Encode the conversation; only the template writes special tokens, BOS and EOS included. Raises DataError."""
        try:
            return self._template.encode(messages, add_generation_prompt=False)
        except ChatError as error:
            first = str(messages[0].get("content"))
            raise DataError(f"the conversation that begins {first[:80]!r}: {error}") from None

    @cached_property
    def _template(self) -> ChatTemplate:
        if self._directory is None:
            raise DataError(f"there is no chat template to render it; {REMEDY}")
        template = ChatTemplate.from_pretrained(self._directory, Tokenizer.from_pretrained(self._directory))
        if template is None:
            raise DataError(f"{self._directory} has no chat template to render it; {REMEDY}")
        return template
