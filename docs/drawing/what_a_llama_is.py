"""Figures of the opening chapter."""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docs.drawing import BLUE, GREEN, INK, figure
from llama_scratch import Llama, LlamaConfig
from llama_scratch.model.loss import IGNORED, next_token_loss


@figure(2.3)
def teacher_forcing(canvas: Figure) -> None:
    """Every position's target, found by asking the loss: the logits that lower it are those of the next token."""
    words = ["<s>", "The", " cat", " sat", " down", "."]
    labels = torch.arange(len(words))[None]
    logits = torch.zeros(1, len(words), len(words), requires_grad=True)
    next_token_loss(logits, labels).backward()
    wanted = [int(row.argmin()) if row.any() else IGNORED for row in logits.grad[0]]
    axes = canvas.subplots()
    for t, word in enumerate(words):
        axes.add_patch(Rectangle((t, 0), 0.9, 0.6, fill=False, ec=BLUE, lw=1.5))
        axes.text(t + 0.45, 0.3, word, ha="center", va="center")
        target = "nothing" if wanted[t] == IGNORED else words[wanted[t]]
        axes.text(t + 0.45, 1.9, target, ha="center", va="center", color=GREEN)
        axes.annotate("", (t + 0.45, 1.65), (t + 0.45, 0.7), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(-0.15, 0.3, "reads", ha="right", va="center")
    axes.text(-0.15, 1.9, "predicts", ha="right", va="center")
    axes.set(xlim=(-1.2, len(words)), ylim=(-0.1, 2.2))
    axes.set_axis_off()


@figure(3.4)
def future_is_unseen(canvas: Figure) -> None:
    """How far the logits of every position move when one token is exchanged."""
    torch.manual_seed(0)
    T = 12
    model = Llama(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                              num_attention_heads=4, initializer_range=0.3)).eval()  # fmt: skip
    tokens = torch.randint(50, (1, T))
    moved = torch.zeros(T, T)
    with torch.no_grad():
        before = model(tokens)
        for changed in range(T):
            other = tokens.clone()
            other[0, changed] = (other[0, changed] + 1) % 50
            moved[changed] = (model(other) - before).abs().amax(-1)[0]
    axes = canvas.subplots()
    shown = axes.imshow(moved.numpy(), cmap="Blues")
    axes.set(xlabel="position whose logits are looked at", ylabel="position that is exchanged")
    canvas.colorbar(shown, label="largest change of a logit")
