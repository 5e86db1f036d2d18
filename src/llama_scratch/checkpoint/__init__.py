"""Formats of checkpoints on disk; `checkpoint.py` and `convert.py` are what uses them."""
