"""Figures of the chapter on generating."""

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from docs.drawing import BLUE, GREEN, figure
from llama_scratch import KVCache, Llama, LlamaConfig, generate


@figure(3.2)
def steps(canvas: Figure) -> None:
    """What the model computes at every step of a run, and what it reads from the cache: recorded, not drawn."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                              num_attention_heads=2)).eval()  # fmt: skip
    colours = ListedColormap(["none", BLUE, GREEN])
    for axes, use_cache in zip(canvas.subplots(1, 2, sharey=True), (False, True), strict=True):
        calls: list[tuple[int, int]] = []

        def record(_model: Llama, given: tuple[Tensor, KVCache | None, Tensor | None], calls: list = calls) -> None:
            calls.append((given[1].length if given[1] is not None else 0, given[0].shape[1]))

        hook = model.register_forward_pre_hook(record)
        generate(model, torch.arange(5)[None], 6, use_cache=use_cache, stop_ids=[])
        hook.remove()
        seen = torch.zeros(len(calls), 10)
        for step, (kept, computed) in enumerate(calls):
            seen[step, :kept], seen[step, kept : kept + computed] = 2, 1
        axes.pcolormesh(seen, cmap=colours, vmin=0, vmax=2, edgecolors="#7a7a7a", linewidth=0.4)
        axes.set(title="over the cache" if use_cache else "without a cache", xlabel="position",
                 xticks=[0.5, 4.5, 9.5], xticklabels=[0, 4, 9], yticks=[n + 0.5 for n in range(6)],
                 yticklabels=range(1, 7))  # fmt: skip
        if not use_cache:
            axes.set_ylabel("step")
            axes.invert_yaxis()
    canvas.supxlabel("blue: computed in this step    green: read from the cache", fontsize=9)
