"""Figures of the chapter on the tokenizer."""

from matplotlib.figure import Figure

from docs.drawing import BLUE, INK, figure
from docs.text import documents
from llama_scratch import Tokenizer


@figure(2.8, slow=True)
def bytes_a_token(canvas: Figure) -> None:
    """How much held-out text one token carries, by the size of the vocabulary."""
    every = documents()
    held_out = every[::10]
    training = [text for i, text in enumerate(every) if i % 10]
    sizes, found = [360, 512, 1024, 2048, 4096, 8192], []
    for size in sizes:
        tokenizer = Tokenizer.train(training, size)
        found.append(sum(len(text.encode()) for text in held_out) / sum(len(tokenizer.encode(t)) for t in held_out))
    axes = canvas.subplots()
    axes.semilogx(sizes, found, "o-", base=2, color=BLUE)
    axes.axhline(1, color=INK, lw=0.8, ls=":")
    axes.set(xlabel="pieces in the vocabulary", ylabel="bytes a token", ylim=(0, None))
    axes.set_xticks(sizes, sizes)
    axes.grid()
