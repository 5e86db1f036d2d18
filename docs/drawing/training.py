"""Figures of the chapter on training."""

from matplotlib.figure import Figure

from docs.drawing import BLUE, figure
from docs.drawing.trained import trained
from llama_scratch.training.metrics import last_validation
from llama_scratch.training.plot import draw_loss


@figure(2.5, slow=True)
def schedule(canvas: Figure) -> None:
    """The learning rate along a run of `make train`, from its log."""
    history = trained().history
    axes = canvas.subplots()
    axes.plot([row.step for row in history], [row.learning_rate for row in history], color=BLUE)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.grid()


@figure(3.1, slow=True)
def loss_curve(canvas: Figure) -> None:
    """A run of `make train`, beside what its held-out text costs without a model."""
    run = trained()
    draw_loss(canvas.subplots(), run.history, run.baselines)
    last = last_validation(run.history).validation_bits_per_byte
    assert last < min(run.baselines.values()), "the chapter says that it ends below both lines"
