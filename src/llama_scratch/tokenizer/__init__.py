"""Text <-> ids, by a tokenizer of any format.

tokenizer            the Tokenizer that users see
source               which file of a directory says what
json_file            tokenizer.json; sentencepiece_file, tiktoken_file: tokenizer.model of either kind
conversion           a SentencePiece or tiktoken model as a tokenizer.json
decoders, detokenize ids -> text, whole or piece by piece
training             a SentencePiece model made from text
"""

from llama_scratch.tokenizer.files import TokenizerError
from llama_scratch.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "TokenizerError"]
