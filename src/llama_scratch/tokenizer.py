"""Text <-> token ids, through a SentencePiece `tokenizer.model`.

A tokenizer trained here is byte-level lossless: text is not normalised, no space is put in front, and a character
outside the vocabulary becomes its UTF-8 bytes, so decode(encode(text)) == text for every text, with one exception that
SentencePiece makes: it writes a space as U+2581 "▁", so a U+2581 in the text comes back as a space.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from llama_scratch.checkpoint import write_file, write_json

TOKENIZER = "tokenizer.model"
# SentencePiece skips longer training inputs silently, so documents are handed over in pieces below its limit
PIECE = 1024


class TokenizerError(Exception):
    """A tokenizer that cannot be loaded or trained; the message says which file and why."""


class Tokenizer:
    """A SentencePiece model. `bos_id` and `eos_id` are None where the model has no such token."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise TokenizerError(f"no SentencePiece model: {error}") from None
        bos, eos = self._processor.bos_id(), self._processor.eos_id()
        self.bos_id = bos if bos >= 0 else None
        self.eos_id = eos if eos >= 0 else None
        self.vocab_size: int = self._processor.vocab_size()

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """The tokenizer in `directory`/tokenizer.model. Raises TokenizerError naming the file."""
        path = Path(directory) / TOKENIZER
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """A byte-fallback BPE model of `vocab_size` pieces learned from `texts`. Raises TokenizerError, for instance
        when the texts do not hold that many pieces.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_pieces(texts),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                byte_fallback=True,
                add_dummy_prefix=False,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                split_digits=True,
                character_coverage=0.9999,
                num_threads=os.cpu_count() or 1,
                minloglevel=2,
            )
        except (RuntimeError, StopIteration) as error:
            raise TokenizerError(f"cannot train {vocab_size} pieces: {error}") from None
        return cls(model.getvalue())

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes tokenizer.model and the tokenizer_config.json that makes transformers give the same ids.

        transformers needs the `protobuf` package to open it, and adds the BOS by itself unless told not to.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / TOKENIZER, lambda path: path.write_bytes(self.model))
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self._processor.unk_id()}
        tokens = {name: self._processor.id_to_piece(i) for name, i in names.items() if i is not None and i >= 0}
        behaviour = {"add_bos_token": self.bos_id is not None, "add_eos_token": False, "legacy": False}
        lossless = {"add_prefix_space": self._adds_a_space(), "clean_up_tokenization_spaces": False}
        config = {"tokenizer_class": "LlamaTokenizer"} | tokens | behaviour | lossless
        write_json(directory / "tokenizer_config.json", config)

    def _adds_a_space(self) -> bool:
        """Whether the model puts a space in front of a text, as Llama 2's does."""
        added: bool = self._processor.normalize("a") != "a"
        return added

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, which is only text: "</s>" in it does not become the end token."""
        ids: list[int] = self._processor.encode(text)
        before = [self.bos_id] if bos and self.bos_id is not None else []
        return before + ids + ([self.eos_id] if eos and self.eos_id is not None else [])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; BOS and EOS decode to nothing. Raises TokenizerError for an id outside the vocabulary."""
        if wrong := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise TokenizerError(f"id {wrong[0]} is outside the vocabulary of {self.vocab_size}")
        return self._processor.decode(list(ids))


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    return (text[i : i + PIECE] for text in texts for i in range(0, len(text), PIECE))
