"""A whole layer, over a padded batch; each with its own two norms."""

from torch import Tensor

from llama_reference.implementation import Block
from llama_reference.standard.cases import Case

VARIANTS = ("hard", "no biases", "eps 1e-2")

SCALES = (0.05, 1.0, 30.0)  # the size of an embedding, and of a late residual stream


def ask(implementation: Block, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    real = case.real
    return {
        f"layer {layer} at scale {scale:g}": implementation.block(
            handle, layer, case.hidden(scale), case.positions, case.mask
        )[real]
        for layer in range(case.config["num_hidden_layers"])
        for scale in SCALES
    }
