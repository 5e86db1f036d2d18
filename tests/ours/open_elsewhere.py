"""What transformers makes of directories, as JSON: ids, ids of chats, logits. Needs nothing of this project, so that an
environment with another transformers can run it: `PYTHON tests/ours/open_elsewhere.py DIR...`.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

# no special token's name: transformers makes a token of one, and here it stays text
TEXTS = ["The quick brown fox", "two  spaces ", "", "\n\nlines\r\n\ttab", "it's 1984, or 12345678.",
         "a\u2581b", "na\u00efve \u65e5\u672c\u8a9e \U0001f98a\u200d\U0001f525 e\u0301", "<s no </s",
         "[INST] x [/INST]"]  # fmt: skip
LEADING_SPACES = [" two  spaces ", "  x", " "]
SAID = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "  Two.\n"},
        {"role": "user", "content": "It's \u00fcber  cool"}]  # fmt: skip
CHATS = {"one": SAID[:1], "three": SAID, "system": [{"role": "system", "content": "Be kind."}, *SAID]}
TOKENS = [(7 * i * i + 3 * i) % 300 for i in range(24)]


def open_tokenizer(directory):
    """DIR#FILE: of a GGUF file. A tokenizer.json is read as it is: for Llama 2's, transformers 5 makes another of its
    vocabulary, which puts no space before a text that begins with one; 4.57 and SentencePiece do.
    """
    path, _, file = str(directory).partition("#")
    if file:
        return transformers.AutoTokenizer.from_pretrained(path, gguf_file=file)
    if (Path(path) / "tokenizer.json").is_file():
        return transformers.PreTrainedTokenizerFast.from_pretrained(path)
    return transformers.AutoTokenizer.from_pretrained(path)


def open_model(directory):
    """As the files say, with the attention that is written out."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto", attn_implementation="eager")


def chat_ids(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def opened(directory, tokenizer=None):
    """`tokenizer`: where it is, if elsewhere."""
    tokenizer = open_tokenizer(tokenizer or directory)
    model = open_model(directory)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0]
    chats = {name: chat_ids(tokenizer, messages) for name, messages in CHATS.items()} if tokenizer.chat_template else {}
    return {
        "ids": {text: tokenizer(text)["input_ids"] for text in TEXTS},
        "chats": chats,
        "ends": [tokenizer.bos_token_id, tokenizer.eos_token_id],
        "dtype": str(logits.dtype),
        "logits": logits.float().tolist(),
    }


if __name__ == "__main__":
    print(json.dumps({directory: opened(directory) for directory in sys.argv[1:]}))
