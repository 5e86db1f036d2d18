"""Figures of the chapter on the loss."""

import torch
from matplotlib.figure import Figure

from docs.drawing import BLUE, INK, figure
from llama_scratch.model.loss import next_token_loss


@figure(3.3)
def pull(canvas: Figure) -> None:
    """Left: the loss of a target by its probability. Right: the gradient of the logits."""
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1.25))
    p = torch.linspace(0.005, 0.995, 100)
    logits = torch.stack((p.log(), (1 - p).log()), dim=-1)
    losses = [next_token_loss(row.expand(1, 2, 2), torch.zeros(1, 2, dtype=torch.long)).item() for row in logits]
    left.plot(p, losses, color=BLUE)
    left.set(xlabel="probability of the target", ylabel="loss in nats")
    left.axhline(0, color=INK, lw=0.5)
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(1, 8, 6, generator=generator, requires_grad=True)
    next_token_loss(z, torch.tensor([[0, 3, 1, -100, 5, 2, 2, 4]])).backward()
    most = z.grad.abs().max().item()
    canvas.colorbar(right.imshow(z.grad[0].numpy(), cmap="RdBu_r", vmin=-most, vmax=most))
    right.set(xlabel="token", ylabel="position", title="gradient of the logits")
