"""Training a SentencePiece model from a stream of text, in memory that does not grow with the text."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator

import sentencepiece

from llama_scratch.tokenizer.files import TokenizerError

# SentencePiece skips longer training inputs silently, so documents are handed over in pieces below its limit
PIECE = 1024
# pieces that are learned from: 32 million characters, about thirty times what the rarest of 32,000 words needs
SAMPLE = 1 << 15


def train_model(texts: Iterable[str], vocab_size: int) -> bytes:
    """A byte-fallback BPE model of `vocab_size` pieces, learned from at most SAMPLE * PIECE characters of `texts`, each
    as likely as any other to be among them. Raises TokenizerError, for instance when they do not hold that many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(_pieces(texts), SAMPLE)),
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
    return model.getvalue()


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
