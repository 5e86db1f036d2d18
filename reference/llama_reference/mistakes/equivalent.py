"""Mistakes that nobody can observe: what they do wrong has no effect on any answer, so they are no mistakes here.

tests/test_mistakes.py shows that each gives answers within budget; none is counted. Not so where rotary embeddings look
at the largest position of a call (dynamic, longrope): there positions that start elsewhere are wrong.
"""

from __future__ import annotations

from llama_reference.mistakes.mistake import Mistake, mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _from_another_start(self, handle, tokens, positions, mask, cache=None):
    return StepwiseLlama.llama(self, handle, tokens, positions + 17, mask, cache)


def _turned_from_another_start(self, handle, layer, x, positions, mask, cache):
    return StepwiseLlama.attention_step(self, handle, layer, x, positions + 17, mask, cache)


def _softmax_of_shifted(self, scores):
    return StepwiseLlama.softmax(self, scores - scores.amax(-1, keepdim=True))


def _softmax_in_the_dtype(_self, scores):
    return scores.softmax(dim=-1)


def _both_negated(self, handle, at, x):
    q, k, v = StepwiseLlama.project(self, handle, at, x)
    return -q, -k, v


def _not_zero(self, mask):
    return mask != 0


EQUIVALENT = tuple(
    Mistake(component, *entry)
    for component, entry in (
        ("attention", mistake(
            "positions_from_17", "positions count from another number: turning both by one more angle keeps what stands "
            "between them, and attention sees differences only.",
            "transformers#25420, unsloth#3699", attention_step=_turned_from_another_start)),
        ("llama", mistake(
            "positions_ignore_padding", "positions of a padded row count its padding: the same for every token of the row",
            "transformers#25420, unsloth#3699", llama=_from_another_start)),
        ("attention", mistake(
            "softmax_in_low_precision", "the softmax runs in the dtype of the scores: on a CPU its sums are in float32 all "
            "the same, and only its result is rounded, as it would be later", "litgpt#914", softmax=_softmax_in_the_dtype)),
        ("attention", mistake(
            "softmax_without_its_largest", "the largest score is subtracted once more before the softmax, which does so itself",
            softmax=_softmax_of_shifted)),
        ("attention", mistake(
            "both_negated", "queries and keys both have the other sign: their products have the same", project=_both_negated)),
        ("attention", mistake(
            "mask_by_difference", "padding is where the mask is not 0, instead of where it is true", padding=_not_zero)),
    )
)  # fmt: skip
