"""Sizes of real models, and what follows from them; the numbers of the book come from here."""

from llama_scratch import LlamaConfig


def _config(D: int, F: int, L: int, N: int, G: int, V: int) -> LlamaConfig:
    return LlamaConfig(vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=N,
                       num_key_value_heads=G)  # fmt: skip


# as their config.json says
REAL = {
    "Llama 2 7B": _config(4096, 11008, 32, 32, 32, 32000),
    "Llama 2 70B": _config(8192, 28672, 80, 64, 8, 32000),
    "Llama 3.1 8B": _config(4096, 14336, 32, 32, 8, 128256),
    "Llama 3.1 70B": _config(8192, 28672, 80, 64, 8, 128256),
    "Llama 3.1 405B": _config(16384, 53248, 126, 128, 8, 128256),
}


def parameters(config: LlamaConfig) -> dict[str, int]:
    """How many parameters each part has, from the shapes alone; no biases, and a head of its own."""
    D = config.hidden_size
    F = config.intermediate_size
    L = config.num_hidden_layers
    V = config.vocab_size
    N = config.num_attention_heads
    G = config.num_key_value_heads
    H = config.head_dim
    return {
        "embedding and head": 2 * V * D,
        "attention": L * (D * N * H + 2 * D * G * H + N * H * D),
        "feed-forward": L * 3 * D * F,
        "norms": (2 * L + 1) * D,
    }


def cache_bytes(config: LlamaConfig, length: int, bytes_a_number: int = 2) -> int:
    """Keys and values of one text."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * length * config.head_dim * bytes_a_number


def matrices(config: LlamaConfig) -> int:
    """Parameters that every token is multiplied by: the embedding is only looked up, gains are not matrices."""
    parts = parameters(config)
    return parts["attention"] + parts["feed-forward"] + parts["embedding and head"] // 2


def forward_flops(config: LlamaConfig, T: int, past: int = 0) -> int:
    """Multiplications and additions of T tokens behind `past` cached ones. Scores of masked pairs are computed too."""
    width = config.num_attention_heads * config.head_dim
    return 2 * T * matrices(config) + 4 * config.num_hidden_layers * width * T * (past + T)


def intensity(config: LlamaConfig, T: int, past: int, bytes_a_number: int = 2) -> float:
    """Operations per byte of one call: every matrix and the keys and values up to here are read once."""
    read = matrices(config) * bytes_a_number + cache_bytes(config, past + T, bytes_a_number)
    return forward_flops(config, T, past) / read
