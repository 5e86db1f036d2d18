"""Figures of the chapter on training."""

from matplotlib.figure import Figure

from docs.drawing import BLUE, ORANGE, figure
from docs.drawing.trained import trained


@figure(2.5, slow=True)
def schedule(canvas: Figure) -> None:
    """The learning rate along a run of `make train`, from its log."""
    history = trained().history
    axes = canvas.subplots()
    axes.plot([row["step"] for row in history], [row["learning_rate"] for row in history], color=BLUE)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.grid()


@figure(3.1, slow=True)
def loss_curve(canvas: Figure) -> None:
    """A run of `make train`."""
    history = trained().history
    axes = canvas.subplots()
    bits = axes.twinx()
    bits.spines["right"].set_visible(True)
    axes.plot([row["step"] for row in history], [row["loss"] for row in history], color=BLUE)
    validated = [row for row in history if "validation_bits_per_byte" in row]
    bits.plot(
        [row["step"] for row in validated], [row["validation_bits_per_byte"] for row in validated], "o-", color=ORANGE
    )
    axes.set(xlabel="step")
    axes.set_ylabel("training loss, nats a token", color=BLUE)
    bits.set_ylabel("held-out text, bits a byte", color=ORANGE)
    axes.grid()
