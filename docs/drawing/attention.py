"""Figures of the chapter on attention."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from docs.drawing import BLUE, COLOURS, INK, figure
from docs.drawing.trained import trained
from llama_scratch import Llama
from llama_scratch.model.attention import Attention, attend, causal_mask, share_heads
from llama_scratch.model.rotary import rotate


@torch.no_grad()
def weights_of(model: Llama, tokens: Tensor) -> Tensor:
    """(L, N, T, T): what every query of every head of the first row reads, layer by layer."""
    found = []

    def record(layer: Attention, arguments: tuple[Tensor, ...]) -> None:
        x, rotation, mask = arguments[:3]
        q = layer.q_proj(x).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        k = layer.k_proj(x).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        q, k = rotate(q, rotation), rotate(k, rotation)
        one_hot = torch.eye(x.shape[1]).expand(*k.shape[:2], -1, -1)  # values that say where they stand
        found.append(attend(q, k, one_hot, mask)[0])

    hooks = [layer.self_attn.register_forward_pre_hook(record) for layer in model.model.layers]
    model(tokens)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


@figure(2.9)
def causal(canvas: Figure) -> None:
    """The mask of a whole text, and of the last three positions of it behind a cache."""
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1))
    for axes, T, title in ((left, 8, "all 8 positions at once"), (right, 3, "3 new ones, 5 in the cache")):
        mask = causal_mask(T, 8, None, torch.device("cpu"))[0, 0]
        axes.imshow(mask.numpy(), cmap="Blues", vmin=-0.2, vmax=1.4)
        axes.set(
            title=title, xlabel="key", ylabel="query", xticks=range(8), yticks=range(T), yticklabels=range(8 - T, 8)
        )


@figure(2.6)
def head_map(canvas: Figure) -> None:
    """Which key/value head each of eight query heads reads: found by giving every group its own number."""
    N = 8
    axes = canvas.subplots()
    for row, (G, name) in enumerate(((8, "multi-head\nG = 8"), (2, "grouped\nG = 2"), (1, "multi-query\nG = 1"))):
        groups = torch.arange(G).float().reshape(1, G, 1, 1)
        read = share_heads(groups, N // G).flatten().int().tolist()
        for n, g in enumerate(read):
            colour = COLOURS[g % len(COLOURS)]
            axes.text(
                n,
                -row,
                n,
                ha="center",
                va="center",
                color=colour,
                bbox={"boxstyle": "round", "fc": "none", "ec": colour},
            )
            axes.text(n, -row - 0.38, f"k{g} v{g}", ha="center", va="center", fontsize=9)
        axes.text(-0.8, -row - 0.1, name, ha="right", va="center")
    axes.set(xlim=(-2.6, N - 0.4), ylim=(-2.7, 0.4))
    axes.set_axis_off()


@figure(5.2, slow=True)
def attention_patterns(canvas: Figure) -> None:
    """Two heads on the same prompt, at initialisation and after training."""
    run = trained()
    tokens = torch.tensor([run.tokenizer.encode("The import statement. The import", bos=True)])
    pieces = ["<s>", *(run.tokenizer.decode([i]) for i in tokens[0, 1:].tolist())]
    upper, lower = canvas.subplots(2, 2)
    after = weights_of(run.model, tokens)
    picked = sharpest_heads(after)
    for layer, head in picked:  # what the chapter says of the picture, of queries that may see three tokens or more
        even = weights_of(run.fresh, tokens)[layer, head, 2:].topk(2, -1).values.sum(-1)
        two = after[layer, head, 2:].topk(2, -1).values.sum(-1)
        assert bool((two > even).all())
        assert two.min().item() > 0.4
    for row, (model, when) in zip((upper, lower), ((run.fresh, "at the start"), (run.model, "trained")), strict=True):
        weights = weights_of(model, tokens)
        for axes, (layer, head) in zip(row, picked, strict=True):
            axes.imshow(weights[layer, head].numpy(), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}, {when}", fontsize=9)
            axes.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=7)
            axes.set_yticks(range(len(pieces)), pieces, fontsize=7)


def sharpest_heads(weights: Tensor) -> list[tuple[int, int]]:
    """(layer, head) of the two heads, of different layers, whose queries are most decided, BOS left aside."""
    decided = weights[:, :, 1:, 1:].amax(-1).mean(-1)  # (L, N)
    layers = decided.amax(1).topk(2).indices.sort().values.tolist()
    return [(layer, int(decided[layer].argmax())) for layer in layers]


@figure(2.7)
def scale(canvas: Figure) -> None:
    """The largest of 32 attention weights of random queries and keys, with the scale and without."""
    generator = torch.Generator().manual_seed(0)
    widths = [4, 8, 16, 32, 64, 128, 256]
    found: dict[str, list[float]] = {"divided by √H": [], "as they are": []}
    for H in widths:
        q = torch.randn(200, 32, H, generator=generator)
        k = torch.randn(200, 32, H, generator=generator)
        scores = q @ k.transpose(-2, -1)
        for kept, factor in zip(found.values(), (H**-0.5, 1.0), strict=True):
            kept.append((scores * factor).softmax(-1).amax(-1).mean().item())
    axes = canvas.subplots()
    for (label, kept), colour in zip(found.items(), (BLUE, COLOURS[1]), strict=True):
        axes.semilogx(widths, kept, "o-", base=2, label=label, color=colour)
    axes.axhline(1 / 32, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="head_dim H", ylabel="largest weight, mean", ylim=(0, 1))
    axes.legend()
