"""Text <-> ids, by a tokenizer of any format.

tokenizer            the public class Tokenizer
source               the common form of all kinds of tokenizer files
json_file            tokenizer.json; sentencepiece_file, tiktoken_file: tokenizer.model of either kind
conversion           a SentencePiece or tiktoken model as a tokenizer.json
decoders, detokenize ids -> text, at once or incrementally
training             trains a SentencePiece model
"""

from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "TokenizerError"]
