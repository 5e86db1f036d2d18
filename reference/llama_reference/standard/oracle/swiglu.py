"""transformers' feed-forward layer, the model's own."""

from torch import Tensor
from transformers import LlamaForCausalLM


def swiglu(handle: LlamaForCausalLM, layer: int, x: Tensor) -> Tensor:
    y: Tensor = handle.model.layers[layer].mlp(x)
    return y
