"""Figures of the chapter on how we know that it is right."""

import torch
from matplotlib.figure import Figure

from docs.drawing import BLUE, GREEN, ORANGE, figure
from llama_reference import mistakes
from llama_reference.judge import comparison, error_growth
from llama_reference.questions.activations import Inputs, record
from llama_reference.questions.layer_checks import LayerChecks
from llama_reference.report.suite_page import SECTIONS
from llama_reference.standard import oracle
from llama_reference.standard.cases import HARD, Case, weights
from tests.adapters import ours


@figure(4, slow=True)
def kill_matrix(canvas: Figure) -> None:
    """How many of the known mistakes of each component each section rejects, on its own."""
    names = mistakes.COMPONENTS
    counted = torch.zeros(len(names), len(SECTIONS))
    for i, name in enumerate(names):
        for mistake in mistakes.of(name):
            for section in comparison.rejections(name, mistake.implementation):
                counted[i, SECTIONS.index(section)] += 1
    axes = canvas.subplots()
    totals = torch.tensor([len(mistakes.of(name)) for name in names])
    axes.imshow((counted / totals[:, None]).numpy(), cmap="Greens", vmin=-0.3, vmax=1.6, aspect="auto")
    for i, name in enumerate(names):
        for j, section in enumerate(SECTIONS):
            none = section == "gradients" and name in comparison.NO_GRADIENTS
            text = "–" if none else f"{int(counted[i, j])} of {totals[i]}"
            axes.text(j, i, text, ha="center", va="center", color="black")
    axes.set_xticks(range(len(SECTIONS)), SECTIONS)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)


@figure(3.2, slow=True)
def error_by_layer(canvas: Figure) -> None:
    """A deep random model on its own activations: how far the stream behind every layer is off the float64 formula."""
    axes = canvas.subplots()
    config = HARD | {"num_hidden_layers": 16}
    state = weights(config, seed=0)
    for dtype, colour in ((torch.float16, GREEN), (torch.bfloat16, ORANGE), (torch.float32, BLUE)):
        case = Case("hard", dtype)
        recording = record(oracle.build(config, state, dtype), Inputs(case.tokens, case.positions, case.mask))
        steps = error_growth.running(ours, LayerChecks(config, state, dtype, recording, []))
        errors = [step.verdict.error for step in steps if step.name == "block" and step.verdict]
        axes.plot([e * torch.finfo(dtype).eps for e in errors], "o-", ms=4, color=colour, label=str(dtype)[6:])
    axes.set(xlabel="layer", ylabel="largest error, relative to its row", yscale="log")
    axes.grid()
    axes.legend()
