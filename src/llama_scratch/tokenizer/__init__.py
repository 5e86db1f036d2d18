"""Formats of tokenizers on disk; `tokenizer.py` is what uses them."""
