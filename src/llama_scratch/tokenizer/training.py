"""Training a SentencePiece model from a stream of text, in memory that does not grow with the text."""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from llama_scratch.tokenizer.files import TokenizerError

# SentencePiece skips longer training inputs silently, so documents are handed over in pieces below its limit
PIECE = 1024
# pieces that are learned from: 32 million characters, about thirty times what the rarest of 32,000 words needs
SAMPLE = 1 << 15
RESERVED = 259  # 256 bytes, <unk>, <s> and </s>
LARGEST = (1 << 31) - 1  # SentencePiece's int
# how SentencePiece says what a text needs, and what it holds
TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
TOO_LARGE = re.compile(r"too high \(\d+\)\. Please set it to a value <= (\d+)")


def train_model(texts: Iterable[str], vocab_size: int) -> bytes:
    """A byte-fallback BPE model of `vocab_size` pieces, learned from at most SAMPLE * PIECE characters of `texts`, each
    as likely as any other to be among them.

    Raises TokenizerError when the texts need more pieces or do not hold as many, naming how many, or hold nothing.
    """
    model = io.BytesIO()
    learned_from = sample(_pieces(texts), SAMPLE)
    if not learned_from:
        raise TokenizerError("there is no text to learn a tokenizer from")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(learned_from),
            model_writer=model,
            model_type="bpe",
            vocab_size=min(max(vocab_size, RESERVED), LARGEST),  # beyond, its error does not say what is possible
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
        raise TokenizerError(_explained(str(error), vocab_size)) from None
    return model.getvalue()


def _explained(message: str, vocab_size: int) -> str:
    """SentencePiece's message in the words of our flag."""
    if found := TOO_SMALL.search(message):
        least = int(found[1])
        parts = f"256 bytes, 3 special tokens and the {least - RESERVED} characters of this text"
        return f"--vocab-size is {vocab_size}, expected at least {least}: {parts}"
    if found := TOO_LARGE.search(message):
        most = int(found[1])
        why = "this text is too short to learn more pieces from"
        return f"--vocab-size is {vocab_size}, expected at most {most}: {why}; give --vocab-size {most}, or more text"
    return f"no tokenizer of --vocab-size {vocab_size} can be learned from this text: {message}"


def sample(items: Iterable[str], count: int) -> list[str]:
    """`count` of the items, or all if there are fewer, in one pass: a reservoir (Vitter 1985, algorithm R)."""
    kept: list[str] = []
    dice = random.Random(0)
    for seen, item in enumerate(items):
        if seen < count:
            kept.append(item)
        elif (place := dice.randrange(seen + 1)) < count:
            kept[place] = item
    return kept


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    return (text[i : i + PIECE] for text in texts for i in range(0, len(text), PIECE))
