"""The feed-forward of every layer, on activations from almost linear to saturated."""

from torch import Tensor

from llama_reference.implementation import SwiGLU
from llama_reference.standard.cases import Case

VARIANTS = ("hard", "no biases", "only attention biases", "gelu", "gelu_pytorch_tanh", "relu")

SCALES = (1e-3, 1.0, 30.0)  # beyond, float16 overflows in the product


def ask(implementation: SwiGLU, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    return {
        f"layer {layer} at scale {scale:g}": implementation.swiglu(handle, layer, case.hidden(scale))
        for layer in range(case.config["num_hidden_layers"])
        for scale in SCALES
    }
