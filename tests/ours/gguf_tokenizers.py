"""Tokenizers, and GGUF files that hold them, written as llama.cpp's convert_hf_to_gguf.py writes them."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers

from llama_scratch import data
from llama_scratch.tokenizer.sentencepiece_file import Model
from tests.ours.checkpoint_writers import made, write_gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SMALL = {"hidden_size": 16, "intermediate_size": 44, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
# as the tokenizer.json of SmolLM2, GPT-2, Qwen 2 and Llama 3 have it
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


ORIGINALS: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen2": _split(SPLIT % ""),
    "llama-bpe": _split(SPLIT % "{1,3}"),
}


def byte_level(name: str, first: list[str], last: list[str]) -> tokenizers.Tokenizer:
    """A small tokenizer that cuts words as `name` does, with special tokens before and behind all others."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=name == "llama-bpe"))
    library.pre_tokenizer = ORIGINALS[name]
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([*data.python_documents()[:30], "123 1234 12345 007 2024 " * 50], trainer)
    library.add_special_tokens(last)
    return library


def of_json(library: tokenizers.Tokenizer, pre: str | None, **ids: int) -> Callable[[gguf.GGUFWriter], None]:
    """Writes a byte-level tokenizer: control and user-defined tokens as they are, all others in the byte alphabet."""
    content = json.loads(library.to_str())
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in content["added_tokens"]}
    names = {i: name for name, i in library.get_vocab(with_added_tokens=True).items()}

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([names[i] for i in range(len(names))])
        writer.add_token_types([added.get(i, NORMAL) for i in range(len(names))])
        writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
        for key, i in ids.items():
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", i)

    return write


def of_model(model: Model, **flags: bool) -> Callable[[gguf.GGUFWriter], None]:
    """Writes a SentencePiece model."""

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([piece.text for piece in model.pieces])
        writer.add_token_scores([piece.score for piece in model.pieces])
        writer.add_token_types([piece.kind for piece in model.pieces])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        for key, value in flags.items():
            writer.add_bool(f"tokenizer.ggml.{key}", value)

    return write


def write(path: Path, vocab_size: int, *writers: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A small Llama with that tokenizer."""

    def extra(writer: gguf.GGUFWriter) -> None:
        for each in writers:
            each(writer)

    return write_gguf(path, *made("tied", vocab_size=vocab_size, **SMALL), extra=extra, words=False)
