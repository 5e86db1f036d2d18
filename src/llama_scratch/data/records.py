"""JSON -> documents: one object per line (.jsonl, .ndjson), or an array of objects or several objects (.json).

An object is a text, in one of its fields, or a conversation:

    {"text": "..."}                                                 the field that --text-field names
    {"prompt": "...", "completion": "..."}                          one text
    {"messages": [{"role": "user", "content": "..."}, ...]}         a conversation, as OpenAI and trl write it
    {"conversations": [{"from": "human", "value": "..."}, ...]}     as ShareGPT does
    {"instruction": "...", "input": "...", "output": "..."}         one of two messages, as Alpaca does
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_scratch.data.errors import DataError

USUAL_FIELD = "text"
SPACE = re.compile(r"[ \t\r\n]*")
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names
NOT_READ = ("tools", "history")  # they belong to a conversation, and leaving them out would change it
Conversation = list[dict[str, Any]]
Record = tuple[str, str | Conversation]  # where it is, and what


def from_lines(path: Path, blocks: Iterable[str], text_field: str, longest: int) -> Iterator[Record]:
    """Read the document of each line that is not blank. Raises DataError naming the line.

    longest: most characters of a line.
    """
    for number, line in enumerate(_lines(path, blocks, longest), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, document(where, _parsed(where, line), text_field)


def from_values(path: Path, blocks: Iterable[str], text_field: str, longest: int) -> Iterator[Record]:
    """Read the document of each element of an array, or of each object in a sequence of objects. Raises DataError.

    longest: most characters of an object.
    """
    for number, value in enumerate(Values(path, blocks, longest), start=1):
        where = f"{path}, object {number}"
        yield where, document(where, value, text_field)


def document(where: str, content: Any, text_field: str) -> str | Conversation:
    """Return the text or conversation of one object. Raises DataError naming `where`."""
    if not isinstance(content, dict):
        raise DataError(
            f"{where} is {json.dumps(content):.80}, expected an object with a field {text_field!r}, for instance "
            f'{{"{text_field}": "..."}}; an array of objects belongs in a file named .json'
        )
    if text_field not in content and text_field == USUAL_FIELD:
        usual = _of_usual_fields(where, content)
        if usual is not None:
            return usual
    if text_field not in content:
        raise DataError(
            f"{where} has no field {text_field!r} but the fields {sorted(content)!s:.200}; "
            "name the one that holds the text by --text-field"
        )
    value = content[text_field]
    if isinstance(value, list):
        return _conversation(f"{where}: {text_field!r}", value, content)
    return _text(f"{where}: {text_field!r}", value)


def _of_usual_fields(where: str, content: Mapping[str, Any]) -> str | Conversation | None:
    """Return the document of an object in one of the forms above; None for any other."""
    for name in ("messages", "conversations"):
        if name in content:
            return _conversation(f"{where}: {name!r}", content[name], content)
    if {"instruction", "output"} <= content.keys():
        parts = [_text(f"{where}: {key!r}", content.get(key) or "") for key in ("instruction", "input", "output")]
        question = "\n".join(part for part in parts[:2] if part)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": parts[2]}]
        return _conversation(where, turns, content)
    if {"prompt", "completion"} <= content.keys():
        prompt = content["prompt"]
        completion = content["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            return _conversation(f"{where}: 'prompt' and 'completion'", prompt + completion, content)
        return _text(f"{where}: 'prompt'", prompt) + _text(f"{where}: 'completion'", completion)
    return None


def _conversation(where: str, turns: Any, content: Mapping[str, Any]) -> Conversation:
    """Rename the keys of messages to those of chat templates, and put the object's `system` first."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where} is {json.dumps(turns):.80}, expected text or a list of messages")
    for name in NOT_READ:
        if content.get(name):
            raise DataError(f"{where} comes with {name!r}, which is not supported: leave it out of the object")
    messages = []
    for number, turn in enumerate(turns, start=1):
        message = dict(turn) if isinstance(turn, dict) else {}
        if "from" in message and "value" in message:
            role = message.pop("from")
            message = {"role": ROLES.get(str(role), role), "content": message.pop("value")} | message
        if not isinstance(message.get("role"), str):
            raise DataError(
                f"{where}: message {number} is {json.dumps(turn):.80}, expected "
                '{"role": "user", "content": "..."} or {"from": "human", "value": "..."}'
            )
        messages.append(message)
    if isinstance(content.get("system"), str) and content["system"] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": content["system"]})
    return messages


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} is {json.dumps(value):.80}, expected text; name another field by --text-field")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half of a surrogate pair at {error.start}; mend it") from None
    return value


def _lines(path: Path, blocks: Iterable[str], longest: int) -> Iterator[str]:
    number = 1
    rest = ""
    for block in blocks:
        first, *others = block.split("\n")
        rest += first
        for line in others:
            yield rest
            number += 1
            rest = line
        if len(rest) > longest:
            raise DataError(
                f"{path}, line {number} is longer than {longest:,} characters, expected one JSON object per line"
            )
    yield rest


def _parsed(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be read; take it out") from None
    except ValueError as error:
        message = f"{where} is not JSON: {error}; expected one JSON object per line; mend the line or take it out"
        if line.lstrip().startswith("["):
            message += "; an array of objects belongs in a file named .json"
        raise DataError(message) from None


class Values:
    """Iterates over the values of a JSON text, or the elements of its array; only a few are in memory at a time."""

    def __init__(self, path: Path, blocks: Iterable[str], longest: int) -> None:
        self._path = path
        self._blocks = iter(blocks)
        self._longest = longest
        self._text = ""
        self._place = 0
        self._lines = 1  # the line in which `_text` begins

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values. Raises DataError with the line of what is not JSON."""
        if self._next() != "[":
            while self._next():
                yield self._value()
            return
        self._place += 1
        follows = self._next()
        while follows != "]":
            yield self._value()
            follows = self._next()
            if follows == ",":
                self._place += 1
            elif follows != "]":
                raise self._error("Expecting ',' or ']'", self._place)
        self._place += 1
        if self._next():
            raise self._error("Extra data after the array", self._place)

    def _next(self) -> str:
        """Peek at the next character that is not a space; "" at the end."""
        while True:
            found = SPACE.match(self._text, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._text) or not self._read_on(1):
                return self._text[self._place : self._place + 1]

    def _value(self) -> Any:
        self._next()
        decoder = json.JSONDecoder()
        while True:
            held = len(self._text) - self._place
            try:
                value, end = decoder.raw_decode(self._text, self._place)
            except RecursionError:
                raise self._error("nested too deeply", self._place) from None
            except json.JSONDecodeError as error:  # or cut short: twice as much is tried each time
                if held > self._longest or not self._read_on(held):
                    raise self._error(error.msg, error.pos) from None
                continue
            if end < len(self._text) or not self._read_on(1):  # a number may go on in the next block
                self._place = end
                return value

    def _read_on(self, least: int) -> bool:
        """Read at least that many characters more, or the rest of the file; False at its end."""
        parts = [self._text[self._place :]]
        count = 0
        for block in self._blocks:  # a block with part of a character only is empty
            parts.append(block)
            count += len(block)
            if count >= least:
                break
        if count:
            self._lines += self._text.count("\n", 0, self._place)
            self._text = "".join(parts)
            self._place = 0
        return count > 0

    def _error(self, what: str, place: int) -> DataError:
        line = self._lines + self._text.count("\n", 0, place)
        return DataError(
            f"{self._path} is not JSON in line {line}: {what}; expected an array of objects, or one object per line; "
            "mend it, or name it .txt to train on it unchanged"
        )
