"""transformers' decoder layer, the model's own."""

from torch import Tensor
from transformers import Cache, LlamaForCausalLM

from llama_reference.standard.oracle.attention import layer_inputs


def block(
    handle: LlamaForCausalLM, layer: int, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
) -> Tensor:
    y: Tensor = handle.model.layers[layer](x, **layer_inputs(handle, layer, x, positions, mask, cache))
    return y
