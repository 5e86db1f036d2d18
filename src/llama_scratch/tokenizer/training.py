"""Train a SentencePiece model on a stream of text, in memory that does not grow with the text."""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from llama_scratch.tokenizer.files import TokenizerError

# characters: SentencePiece skips longer training inputs silently, so documents are divided
INPUT = 1024
# inputs: 32 million characters, about thirty times what the rarest of 32,000 pieces needs
SAMPLE = 1 << 15
RESERVED = 259  # 256 bytes, <unk>, <s> and </s>
# SentencePiece's messages about a vocabulary that is too small or too large
TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
TOO_LARGE = re.compile(r"too high \(\d+\)\. Please set it to a value <= (\d+)")


def train_model(texts: Iterable[str], vocab_size: int, sample_size: int = SAMPLE) -> bytes:
    """Train a byte-fallback BPE model of `vocab_size` pieces on a uniform sample of `sample_size` inputs.

    Raises TokenizerError if the texts need more pieces or contain fewer, naming the number, or if they are empty.
    """
    model = io.BytesIO()
    inputs = sample(_inputs(texts), sample_size)
    if not inputs:
        raise TokenizerError("there is no text to learn a tokenizer from")
    # Every character is a piece at most, and every merge takes one away: a text of n has fewer than 2 n more pieces.
    too_many = RESERVED + 2 * sum(map(len, inputs))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(inputs),
            model_writer=model,
            model_type="bpe",
            vocab_size=min(max(vocab_size, RESERVED), too_many),  # far outside, its error is late or names no limit
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
    """Translate SentencePiece's message to --vocab-size."""
    too_small = TOO_SMALL.search(message)
    if too_small is not None:
        least = int(too_small[1])
        parts = f"256 bytes, 3 special tokens and the {least - RESERVED} characters of this text"
        return f"--vocab-size is {vocab_size}, expected at least {least}: {parts}"
    too_large = TOO_LARGE.search(message)
    if too_large is not None:
        most = int(too_large[1])
        why = "this text is too short to learn more pieces from"
        return f"--vocab-size is {vocab_size}, expected at most {most}: {why}; give --vocab-size {most}, or more text"
    return f"no tokenizer of --vocab-size {vocab_size} can be learned from this text: {message}"


def sample(items: Iterable[str], count: int) -> list[str]:
    """Draw `count` of the items, or all if there are fewer, in one pass: a reservoir (Vitter 1985, algorithm R)."""
    kept: list[str] = []
    rng = random.Random(0)
    for seen, item in enumerate(items):
        if seen < count:
            kept.append(item)
            continue
        place = rng.randrange(seen + 1)
        if place < count:
            kept[place] = item
    return kept


def _inputs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for i in range(0, len(text), INPUT):
            yield text[i : i + INPUT]
