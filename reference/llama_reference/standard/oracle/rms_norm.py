"""transformers' RMSNorm, the model's own."""

from torch import Tensor
from transformers import LlamaForCausalLM


def rms_norm(handle: LlamaForCausalLM, where: str, x: Tensor) -> Tensor:
    norm: Tensor = handle.get_submodule(where)(x)
    return norm
