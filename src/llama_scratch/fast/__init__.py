r"""Decoding at the speed of memory: the same mathematics, compiled, and nothing else.

One more token needs every weight once, so its cost is at least

    bytes of weights / memory bandwidth

A matrix times one vector is a row-wise sum, y_o = Σ_i W_oi x_i. PyTorch's own product of a matrix with one row reads
memory at a quarter to a half of its speed on a CPU; the same sum, written as one and compiled by TorchInductor, at
nearly all of it. The whole step is compiled into one kernel, which reads the weights where the model keeps them, query,
key and value in one loop, gate and up in another; numbers between the weights are float32 whatever their dtype.

step      the mathematics of one token
compiled  the step as machine code: where it is kept, and how it is called
compiler  python -m llama_scratch.fast.compiler: makes it, in a process of its own
pages     weights where memory is read fastest
decoding  a model whose single tokens take that step; where it is expected to pay
sdpa      attention by the formula or by PyTorch's fused kernel, for prompts and for training

Williams et al. 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures".
"""

from llama_scratch.fast.compiled import CompileError, can_compile
from llama_scratch.fast.llama import FastLlama, StaticCache, for_decoding

__all__ = ["CompileError", "FastLlama", "StaticCache", "can_compile", "for_decoding"]
