"""Text from a model, in this order:

loop     the one decoding loop: `stream` gives it step by step, `generate` as a whole; prompts side by side
text     the same in characters: pieces of text as they come, stop strings
chat     messages -> ids, by the template that comes with a checkpoint
command  python -m llama_scratch.generate
"""

from llama_scratch.generate.chat import ChatError, ChatTemplate
from llama_scratch.generate.loop import (
    DecodingStep,
    GenerationError,
    choose,
    context_length,
    generate,
    pad_left,
    stream,
)
from llama_scratch.generate.text import TextStream

__all__ = [
           "ChatError",
           "ChatTemplate",
           "DecodingStep",
           "GenerationError",
           "TextStream",
           "choose",
           "context_length",
           "generate",
           "pad_left",
           "stream",
]  # fmt: skip
