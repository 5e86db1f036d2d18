"""Text from a model, in this order.

sampling  the distribution of the next token
loop      the decoding loop: `stream` runs it step by step, `generate` to its end, for one prompt or a batch
stop_ids  the ids that end a text
text      the same in characters: pieces of text as they come, stop strings
chat      messages -> ids, by the template that comes with a checkpoint
command   python -m llama_scratch.generate
"""

from llama_scratch.generate.chat import ChatError, ChatTemplate
from llama_scratch.generate.loop import (
    DecodingStep,
    GenerationError,
    PromptError,
    choose,
    context_length,
    generate,
    pad_left,
    stream,
)
from llama_scratch.generate.sampling import SamplingParams
from llama_scratch.generate.stop_ids import stop_ids
from llama_scratch.generate.text import FinishReason, TextStream

__all__ = [
    "ChatError",
    "ChatTemplate",
    "DecodingStep",
    "FinishReason",
    "GenerationError",
    "PromptError",
    "SamplingParams",
    "TextStream",
    "choose",
    "context_length",
    "generate",
    "pad_left",
    "stop_ids",
    "stream",
]
