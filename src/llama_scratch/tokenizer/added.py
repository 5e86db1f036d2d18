"""Tokens that were added to a vocabulary after it was made: added_tokens.json, or `added_tokens_decoder` and the names
of special tokens in tokenizer_config.json.

transformers gives such a token its id in the vocabulary, else the next free one, whatever id the file says. A file that
says another id is refused: the model was not trained with the ids that transformers would use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, models

from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.settings import ADDED, CONFIG, more_special, token_names

FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
PLAIN = dict.fromkeys(FLAGS, False)


class Added(NamedTuple):
    """An added token, its id in a file, if there is one, and that file; "" for a name only, as of a pad token."""

    content: str
    id: int | None
    special: bool
    flags: Mapping[str, bool]
    file: str


def added_tokens(settings: Mapping[str, Any], older: Mapping[str, Any]) -> list[Added]:
    """List added tokens in transformers' order; `older` is the content of added_tokens.json. Raises TokenizerError."""
    more = more_special(settings)
    names = [*token_names(settings).values(), *more]
    if "added_tokens_decoder" in settings:
        listed = _from_decoder(settings["added_tokens_decoder"])
    else:
        listed = [_from_older(content, i, content in names) for content, i in older.items()]
    listed.sort(key=lambda token: token.id or 0)
    named = [Added(name, None, True, PLAIN, CONFIG if name in more else "") for name in names]
    return listed + named


def _from_decoder(found: Any) -> list[Added]:
    if not isinstance(found, dict):
        raise TokenizerError(f"added_tokens_decoder is {str(found)[:80]}, expected an object of tokens by id")
    tokens = []
    for i, token in found.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not i.isdecimal() or not isinstance(content, str) or not content:
            expected = "an id and an object with content"
            raise TokenizerError(f"added_tokens_decoder has {i[:80]!r}: {str(token)[:80]}, expected {expected}")
        flags = {flag: token.get(flag) is True for flag in FLAGS}
        tokens.append(Added(content, int(i), token.get("special") is True, flags, CONFIG))
    return tokens


def _from_older(content: str, i: Any, special: bool) -> Added:
    if type(i) is not int or not content:
        raise TokenizerError(f"{ADDED} gives {content[:80]!r} the id {str(i)[:80]}, expected a number")
    return Added(content, i, special, PLAIN | {"normalized": not special}, ADDED)


def placed(tokens: Iterable[Added], known: Mapping[str, int]) -> dict[str, tuple[int, Added]]:
    """Give each token its id in the vocabulary, else the next free one.

    Names without an id that would come last are left out: the model has no row for them. Raises TokenizerError if the
    file says another id.
    """
    free = max(known.values(), default=-1) + 1
    found: dict[str, tuple[int, Added]] = {}
    for token in tokens:
        if token.content in found:
            continue
        i = known.get(token.content, free)
        if token.id not in (None, i):
            why = "which the vocabulary gives it" if token.content in known else "the first one that is free"
            name = token.content[:80]
            raise TokenizerError(f"{token.file} gives {name!r} the id {token.id}, expected {i}, {why}")
        found[token.content] = i, token
        free += token.content not in known
    last = max((i for i, token in found.values() if token.file), default=-1)
    return {name: token for name, token in found.items() if token[0] <= last or name in known}


Encode = Callable[[str], list[int]]


def around(tokens: Sequence[tuple[int, Added]], first: Encode, later: Encode) -> Encode:
    """Encode a text that may contain added tokens; `later` encodes what follows one. Special tokens stay text."""
    library = tokenizers.Tokenizer(models.WordLevel({"": 0}, unk_token=""))
    library.add_tokens([AddedToken(token.content, special=token.special, **token.flags) for _, token in tokens])
    library.encode_special_tokens = True
    ids = {library.token_to_id(token.content): i for i, token in tokens}

    def encode(text: str) -> list[int]:
        ids_of_text: list[int] = []
        whole = library.encode(text)
        for i, (start, stop) in zip(whole.ids, whole.offsets, strict=True):
            part = later if start else first
            ids_of_text += [ids[i]] if i in ids else part(text[start:stop])
        return ids_of_text

    return encode
