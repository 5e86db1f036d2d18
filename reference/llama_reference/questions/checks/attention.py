"""Attention of the first and the last layer: over a padded batch in one pass, and in chunks over a cache."""

from itertools import accumulate

from torch import Tensor

from llama_reference.implementation import CachedAttention, Handle
from llama_reference.questions import chunks
from llama_reference.standard.cases import LENGTH, SPLIT, Case

VARIANTS = (
    "hard",
    "one group",
    "a group a head",
    "head_dim is hidden / heads",
    "no biases",
    "rope yarn",
    "rope dynamic",
)

SCALES = (1e-3, 1.0, 8.0)  # an attention that is nearly uniform, usual, and nearly one-hot


IN_CHUNKS = "in chunks"
# Of a saturated softmax, and through a cache.
NOT_DIFFERENTIATED = frozenset({IN_CHUNKS, "layer 0 at scale 8", "layer 2 at scale 8"})


def ask(implementation: CachedAttention, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    real = case.real
    answers = {}
    for layer in (0, case.config["num_hidden_layers"] - 1):
        for scale in SCALES:
            y = implementation.attention(handle, layer, case.hidden(scale), case.positions, case.mask)
            answers[f"layer {layer} at scale {scale:g}"] = y[real]
    if case.profile.padding:
        answers["no padding"] = implementation.attention(handle, 0, case.hidden(), case.positions, None)
    if case.profile.cache:
        answers[IN_CHUNKS] = in_chunks(implementation, handle, case)[real]
    return answers


def in_chunks(implementation: CachedAttention, handle: Handle, case: Case, split: tuple[int, ...] = SPLIT) -> Tensor:
    """Layer 0 over the hidden states of the case, a chunk at a time."""
    cache = implementation.new_cache(handle, case.rows, LENGTH)

    def call(x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        return implementation.attention(handle, 0, x, positions, mask, cache)

    edges = (0, *accumulate(split))
    return chunks.in_chunks(call, edges, case.hidden(), case.positions, case.mask)
