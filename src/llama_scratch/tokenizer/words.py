r"""How a byte-level tokenizer splits a text into words, by the name in `tokenizer.ggml.pre` of a GGUF file.

Each pattern splits the words of the one before; what is between two matches is a word, too. llama.cpp adapts some
patterns to its own matcher; those here are the original ones of the tokenizers.

ggml-org/llama.cpp, src/llama-vocab.cpp: llm_tokenizer_bpe and llama_vocab::impl::load.
"""

from __future__ import annotations

from typing import Any

from llama_scratch.tokenizer.tiktoken_file import WORDS as LLAMA_3

GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
MARKED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    MARKED + r"*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|" + MARKED + r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    MARKED + r"*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + SHORT + "|" + MARKED + r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + SHORT
) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SEED = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

LIKE_LLAMA_3 = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
# the patterns, and their names
FAMILIES: list[tuple[tuple[str, ...], str]] = [
    ((LLAMA_3,), LIKE_LLAMA_3 + " dbrx smaug-bpe chatglm-bpe glm4"),
    ((GPT_2,), "gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling"),
    ((r"\p{N}", GPT_2), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    ((QWEN_2,), "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2"),
    ((TEKKEN,), "tekken"),
    ((GPT_4O,), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    ((SEED,), "seed-coder"),
    ((r"\p{N}{1,3}", LLAMA_3.replace("{1,3}", "+")), "minicpm5"),
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"), "deepseek-coder"),
    ((r"[\p{P}\$\+<=>\^~\|`]+", GPT_2, "[0-9][0-9][0-9]"), "falcon"),
    ((r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"), "viking"),
    ((r" ?[^(\s|.,!?…。，、।۔،)]+",), "poro-chat bloom gpt3-finnish"),
    ((r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
]
PATTERNS = {name: patterns for patterns, names in FAMILIES for name in names.split()}
# for these a word that is a token is that token, whatever the merges
WHOLE = frozenset(
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken minicpm5".split()
)
# these have BOS before a text by default
WITH_BOS = WHOLE - {"minicpm5"}


def pre_tokenizer(name: str) -> dict[str, Any]:
    """Make the part of a tokenizer.json that splits a text into words, and these into bytes. Raises KeyError."""
    parts: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in PATTERNS[name]
    ]
    return {"type": "Sequence", "pretokenizers": [*parts, BYTES]}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
