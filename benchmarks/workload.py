"""What is measured: a model of 15 M parameters, and where the medians are kept for the tables at the end."""

import pytest

from llama_reference.standard.cases import HARD

CONFIG = HARD | {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
}
B, T = 4, 256
PROVIDERS = ("ours", "transformers")
MEDIANS = pytest.StashKey[dict[str, dict[str, dict[str, float]]]]()  # table -> row -> column -> milliseconds
TABLES = pytest.StashKey[dict[str, dict[str, dict[str, str]]]]()  # title -> row -> column -> cell
