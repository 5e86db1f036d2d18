"""A Llama from scratch, proven equal to Hugging Face transformers part by part.

Read model/ in this order; each file is one formula and the code that computes it:

    config      the sizes, and the letters that stand for them       attention   grouped queries under a causal mask
    rms_norm    normalisation                                        swiglu      the gated feed-forward layer
    rotary      positions, as rotations                              block       both of them, on a residual stream
    kv_cache    what decoding remembers                              llama       the whole model, and its head
                                                                     loss        next-token cross entropy
"""

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.generate import generate
from llama_scratch.model.config import LlamaConfig
from llama_scratch.model.kv_cache import KVCache
from llama_scratch.tokenizer import Tokenizer

__all__ = ["KVCache", "Llama", "LlamaConfig", "Tokenizer", "generate"]
