"""Text <-> token ids, by the tokenizer files of a checkpoint.

    tokenizer.json     of the `tokenizers` library
    tokenizer.model    of SentencePiece, or of tiktoken, as Meta ships Llama 3's

If both are present tokenizer.json is read, as by transformers: tokens added after pre-training are only there, and a
tokenizer.model lacks them and the number of ids. Text is only text: "</s>" or "<|eot_id|>" in it does not become a
special token; a prompt that needs one takes its id from `special_tokens`.

A tokenizer trained here is lossless: text is not normalised, no space is added, and a character outside the vocabulary
becomes its UTF-8 bytes, so decode(encode(text)) == text for every text, with one exception: SentencePiece writes a
space as U+2581 "▁", so a U+2581 in the text comes back as a space.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llama_scratch.checkpoint.files import write_file, write_json
from llama_scratch.tokenizer.added import added_tokens
from llama_scratch.tokenizer.files import (
    USUAL,
    TokenizerError,
    named_token,
    naming,
    read_file,
    read_settings,
    token_name,
)
from llama_scratch.tokenizer.settings import (
    ADDED,
    CONFIG,
    FILES,
    JSON,
    MODEL,
    all_names,
    more_templates,
    read_directory_settings,
    read_kept,
)
from llama_scratch.tokenizer.source import Source, read_source
from llama_scratch.tokenizer.training import train_model

# Llama 3 stops after any of these, whichever its tokenizer_config.json names
ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


class Tokenizer:
    """A tokenizer, from `from_pretrained` or `train`.

    vocab_size      one more than the largest id
    bos_id, eos_id  None without such a token
    special_tokens  the id of every special token by its name
    names           the name of every token that a chat template may refer to, by its key: "bos_token" and so on
    starts, ends    ids that the tokenizer itself adds before and after a text: BOS, EOS or nothing, by its files
    strips          name of an added token -> whether it removes the spaces before it, and those after it
    stop_ids        ids that end a text: the EOS, and Llama 3's ends of a message and of a turn
    """

    def __init__(self, source: Source, settings: Mapping[str, Any], kept: Mapping[str, bytes] | None = None) -> None:
        """Make a tokenizer of a file, the settings of a tokenizer_config.json, and other files to be saved with it.

        Raises TokenizerError if the settings name a token that does not exist.
        """
        self._source = source
        self._settings = settings
        self._kept = kept or {}
        self.starts = source.starts
        self.ends = source.ends
        self.strips = source.strips
        self.special_tokens = source.special_tokens
        self.names = all_names(settings, source.names)
        self.vocab_size = max(source.detokenizer.pieces, default=-1) + 1
        self.bos_id = named_token({**source.names, **settings}, "bos_token", self.special_tokens)
        self.eos_id = named_token({**source.names, **settings}, "eos_token", self.special_tokens)
        ends = [self.special_tokens[name] for name in ENDS if name in self.special_tokens]
        self.stop_ids = list(dict.fromkeys(ends if self.eos_id is None else [self.eos_id, *ends]))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Load the tokenizer in `directory`. Raises TokenizerError naming the file."""
        directory = Path(directory)
        path = directory / (JSON if (directory / JSON).exists() else MODEL)
        settings = read_directory_settings(directory)
        older = read_settings(directory / ADDED)
        with naming(directory / CONFIG):
            named = [name for key in USUAL if (name := token_name(settings, key))]
            added = added_tokens(settings, older)
        content = read_file(path)
        with naming(path):
            source = read_source(path.name, content, named, added, settings)
        with naming(directory / CONFIG):
            return cls(source, settings, read_kept(directory))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-fallback BPE model of `vocab_size` pieces on `texts`, which may be a stream: a sample of a long
        one is used. Raises TokenizerError, for instance if the texts do not contain that many pieces.
        """
        return cls(read_source(MODEL, train_model(texts, vocab_size), []), {})

    def save_pretrained(self, directory: str | os.PathLike[str], json: bool = True) -> None:
        """Write the file from which the tokenizer was loaded, a tokenizer.json, and the tokenizer_config.json with
        which transformers gives the same ids; and what belongs to them: chat templates, added tokens, names of tokens.

        A SentencePiece model without an equivalent tokenizer.json (conversion.is_convertible) is saved without one.
        With `json` False so is every tokenizer that was loaded from a tokenizer.model.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = {**self._kept, **self._source.files()}
        if not json and MODEL in files:
            files.pop(JSON, None)
        others = {directory / name for name in FILES} | set(more_templates(directory))
        for path in others - {directory / name for name in files}:  # of another tokenizer
            path.unlink(missing_ok=True)
        for name, content in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            write_file(directory / name, partial(Path.write_bytes, data=content))
        tokens = {key: self.names[key] for key in USUAL if key in self.names}
        kept = {name: value for name, value in self._settings.items() if name != "auto_map"}  # it names code to run
        config = {"clean_up_tokenization_spaces": False} | tokens | kept | dict(self._source.settings)
        write_json(directory / CONFIG, config)

    def encode(self, text: str, bos: bool = False, eos: bool = False, follows: bool = False) -> list[int]:
        """Encode `text`, which is only text: "</s>" in it does not become the end token.

        follows: True for text after a special token, to which some tokenizers add no space. Raises TokenizerError for
        half of a surrogate pair, which is not a character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"character {error.start} of the text is {text[error.start]!a}, a surrogate") from None
        before = [self.bos_id] if bos and self.bos_id is not None else []
        after = [self.eos_id] if eos and self.eos_id is not None else []
        encode = self._source.encode_following if follows else self._source.encode
        return before + encode(text) + after

    def encode_prompt(self, text: str) -> list[int]:
        """Encode `text` for a model to continue, with the ids that the tokenizer itself adds before and after a text.

        Raises TokenizerError for half of a surrogate pair.
        """
        return [*self.starts, *self.encode(text), *self.ends]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """Decode `ids`; special tokens are skipped unless `special`, and invalid UTF-8 becomes U+FFFD.

        Raises TokenizerError for an id outside the vocabulary.
        """
        return "".join(self.decode_stream(ids, special))

    def decode_stream(self, ids: Iterable[int], special: bool = False) -> Iterator[str]:
        """Decode incrementally: yields the text each id completes ("" inside a character), then the remainder.

        Raises TokenizerError for an id outside the vocabulary.
        """
        try:
            yield from self._source.detokenizer.stream(ids, special)
        except KeyError as error:
            raise TokenizerError(f"id {error.args[0]} is outside the vocabulary of {self.vocab_size}") from None
