r"""One layer of the decoder: attention, then feed-forward, each on its own residual branch.

    h = x + Attention(RMSNorm₁(x))
    y = h + SwiGLU(RMSNorm₂(h))

Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture" (pre-norm).
"""

from torch import nn

from llama_scratch.model.attention import Attention
from llama_scratch.model.config import Hidden, LlamaConfig, Mask, Rotation
from llama_scratch.model.kv_cache import LayerCache
from llama_scratch.model.rms_norm import RMSNorm
from llama_scratch.model.swiglu import SwiGLU


class Block(nn.Module):
    """Pre-norm residual layer. Raises ValueError if the cache has no room.

    Submodules are registered in Hugging Face's order: gradient clipping sums norms in that order.
    """

    def __init__(self, config: LlamaConfig, sdpa: bool = False) -> None:
        super().__init__()
        self.self_attn = Attention(config, sdpa)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Hidden, rotation: Rotation, mask: Mask, cache: LayerCache | None = None
    ) -> Hidden:
        h = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        return h + self.mlp(self.post_attention_layernorm(h))
