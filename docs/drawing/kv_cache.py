"""Figures of the chapter on the cache."""

import torch
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from docs.drawing import BLUE, ORANGE, figure
from docs.real_models import REAL, cache_bytes
from llama_scratch import KVCache, Llama, LlamaConfig


@figure(3.2)
def cache_growth(canvas: Figure) -> None:
    """GiB of keys and values in bfloat16, by length."""
    axes = canvas.subplots()
    lengths = [2**n for n in range(10, 18)]
    for name, style in zip(REAL, ("-", "--", "-", "--", ":"), strict=False):
        axes.loglog(lengths, [cache_bytes(REAL[name], S) / 2**30 for S in lengths], style, base=2, label=name)
    axes.set(xlabel="tokens", ylabel="GiB a text, in bfloat16")
    axes.set_xticks(lengths, [f"{n // 1024}K" for n in lengths])
    axes.set_yticks([2**n for n in range(-3, 7)], [f"{2**n:g}" for n in range(-3, 7)])
    axes.grid()
    axes.legend(fontsize=8)


@torch.no_grad()
def flops(model: Llama, lengths: list[int], cached: bool) -> list[int]:
    """Floating-point operations of the step that makes one more token, counted by PyTorch."""
    found = []
    for S in lengths:
        tokens = torch.zeros(1, S, dtype=torch.long)
        cache = KVCache(model.config, 1, S) if cached else None
        if cache is not None:
            model(tokens[:, :-1], cache)
        with FlopCounterMode(display=False) as counter:
            model(tokens[:, -1:] if cached else tokens, cache)
        found.append(counter.get_total_flops())
    return found


@figure(3)
def cost_of_a_token(canvas: Figure) -> None:
    """Counted, not timed."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab_size=512, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
                              num_attention_heads=4, num_key_value_heads=2)).eval()  # fmt: skip
    lengths = [2, 16, 32, 64, 96, 128, 192, 256]
    axes = canvas.subplots()
    for cached, label, colour in ((False, "everything again", ORANGE), (True, "over the cache", BLUE)):
        axes.plot(lengths, [n / 1e6 for n in flops(model, lengths, cached)], "o-", ms=4, label=label, color=colour)
    axes.set(xlabel="tokens of the text so far", ylabel="million operations for the next", yscale="log")
    axes.grid()
    axes.legend()
