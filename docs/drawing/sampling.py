"""Figures of the chapter on sampling."""

import torch
from matplotlib.figure import Figure

from docs.drawing import BLUE, INK, figure
from llama_scratch.generate.sampling import SamplingParams, next_token_probabilities

LOGITS = torch.tensor([[3.0, 2.6, 2.0, 1.2, 0.8, 0.1, -0.5, -1.0, -1.6, -2.5]])
KNOBS = {
    "as it is": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 2": {"temperature": 2.0},
    "top_k 3": {"top_k": 3},
    "top_p 0.8": {"top_p": 0.8},
    "min_p 0.2": {"min_p": 0.2},
    "repetition_penalty 2\non tokens 0 and 1": {"repetition_penalty": 2.0},
    "temperature 0": {"temperature": 0.0},
}


@figure(5)
def knobs(canvas: Figure) -> None:
    """One distribution under each knob."""
    before = next_token_probabilities(LOGITS, torch.tensor([[0, 1]]), SamplingParams())[0].tolist()
    for axes, (label, settings) in zip(
        canvas.subplots(4, 2, sharex=True, sharey=True).flat, KNOBS.items(), strict=True
    ):
        after = next_token_probabilities(LOGITS, torch.tensor([[0, 1]]), SamplingParams(**settings))[0]
        axes.bar(range(10), after.tolist(), color=BLUE, alpha=0.85)
        axes.step([n - 0.5 for n in range(11)], [*before, before[-1]], where="post", color=INK, lw=1)
        axes.set_title(label, fontsize=9)
        axes.set(ylim=(0, 1), xticks=range(10))
