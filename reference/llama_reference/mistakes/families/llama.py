"""Families of mistakes in how the model is put together."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

from llama_reference.mistakes.family import TIMES, Family, Numbers, ratios, whole
from llama_reference.standard.cases import HARD
from llama_reference.standard.stepwise import StepwiseLlama

_LAYERS = HARD["num_hidden_layers"]
# Which layers run instead of 0, 1, 2: in another order, some of them, some of them twice. A family's number counts them.
RUNS = [run for n in range(1, _LAYERS + 2) for run in product(range(_LAYERS), repeat=n)]
RUNS.sort(key=lambda run: (run not in set(permutations(range(_LAYERS))), len(run) != _LAYERS - 1, run))


class _LayersRun(Family):
    """Tells the layers, not their number."""

    def at(self, number: float) -> Any:
        layers = ", ".join(map(str, RUNS[int(number)]))
        return replace(super().at(number), why=self.why.format(n=layers))


FAMILIES = (
    _LayersRun("llama", "layers_run", "the layers that run are {n}", Numbers(tuple(map(float, range(len(RUNS))))),
               lambda n: {"layers": lambda _s, _c: list(RUNS[int(n)])}),
    Family("llama", "embedding_times", "the embedding is multiplied by {n}", TIMES,
           lambda n: {"embed": lambda s, h, t: n * StepwiseLlama.embed(s, h, t)}),
    Family("llama", "logits_times", "logits are multiplied by {n}", TIMES,
           lambda n: {"head": lambda s, h, x: n * StepwiseLlama.head(s, h, x)}),
    Family("llama", "logits_capped_at", "logits are softly capped at {n}, as in Gemma 2", ratios(1, 512, 9),
           lambda n: {"head": lambda s, h, x: n * (StepwiseLlama.head(s, h, x) / n).tanh()}),
    Family("llama", "tokens_off_by", "token t + {n} is embedded instead of t", whole(-8, 8), lambda n: {
        "embed": lambda s, h, t: StepwiseLlama.embed(s, h, (t + int(n)).clamp(0, h.config["vocab_size"] - 1))}),
    Family("llama", "logits_late_by", "the logits of position t are those of t - {n}", whole(-4, 4),
           lambda n: {"head": lambda s, h, x: StepwiseLlama.head(s, h, x).roll(int(n), 1)}),
)  # fmt: skip
