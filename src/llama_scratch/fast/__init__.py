r"""Decoding at the speed of memory: the same mathematics, compiled, and nothing else.

One more token needs every weight once, so its cost is at least

    bytes of weights / memory bandwidth

A matrix times one vector is a row-wise sum, y_o = Σ_i W_oi x_i. PyTorch's own product of a matrix with one row reads
memory at a quarter to a half of its speed on a CPU; the same sum, written as one and compiled by TorchInductor, at
nearly all of it. The whole step is compiled into one kernel, which reads the model's own weights: query, key and value
in one loop, gate and up in another. Activations are float32 whatever the dtype of the weights.

kernel        the mathematics of one token
compiled      the step as machine code: where it is kept, and how it is loaded
compiler      python -m llama_scratch.fast.compiler: compiles it, in a process of its own
static_cache  keys and values in the layout that the step reads
pages         weights in large pages of memory
llama         a model whose single tokens take that step, and where compiling is expected to pay
sdpa          attention by the formula or by PyTorch's fused kernel, for prompts and for training

Williams et al. 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures".
"""

from llama_scratch.fast.compiled import CompileError, has_cpp_compiler
from llama_scratch.fast.llama import Decoder, FastLlama, choose_decoder
from llama_scratch.fast.static_cache import StaticCache

__all__ = ["CompileError", "Decoder", "FastLlama", "StaticCache", "choose_decoder", "has_cpp_compiler"]
