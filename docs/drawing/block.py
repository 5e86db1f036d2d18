"""Figures of the chapter on the block."""

import torch
from matplotlib.figure import Figure

from docs.drawing import BLUE, ORANGE, figure
from llama_scratch import Llama, LlamaConfig


@figure(3)
def stream(canvas: Figure) -> None:
    """The size of the residual stream behind every layer of a fresh model, and of what each layer's parts read."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=500, hidden_size=256, intermediate_size=704, num_hidden_layers=24,
                              num_attention_heads=4)).eval()  # fmt: skip
    sizes: dict[str, list[float]] = {"stream": [], "read": []}

    def size(x: torch.Tensor) -> float:
        return x.pow(2).mean().sqrt().item()

    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, _i, y: sizes["stream"].append(size(y)))
        layer.input_layernorm.register_forward_hook(lambda _m, _i, y: sizes["read"].append(size(y)))
    with torch.no_grad():
        model(torch.randint(500, (2, 64)))
    axes = canvas.subplots()
    axes.plot(sizes["stream"], "o-", ms=4, color=BLUE, label="the stream behind layer l")
    axes.plot(sizes["read"], "o-", ms=4, color=ORANGE, label="what its attention reads")
    axes.set(xlabel="layer l", ylabel="root mean square", ylim=(0, None))
    axes.legend()
