"""Text -> documents -> tokens on disk -> batches.

sources      files, folders, globs, JSON and gzip, read as a stream of pieces of documents
formats      encodings; files that are not text, and what to do about them
records      JSON objects -> texts and conversations
chats        conversations -> text and ids, by the chat template of a tokenizer
corpus       the tokenizer and both parts of the text as tokens, prepared once and reused, with a manifest
encoding     pieces -> ids, in several processes
token_files  tokens in memory-mapped files
windows      batches, drawn at random or one after another
baselines    what single bytes and xz make of a text
"""

from llama_scratch.data.corpus import Corpus, CorpusConfig, prepare
from llama_scratch.data.sources import DataError, find_files, python_documents, read_pieces
from llama_scratch.data.token_files import TokenArray
from llama_scratch.data.windows import all_windows, random_windows

__all__ = [
    "Corpus",
    "CorpusConfig",
    "DataError",
    "TokenArray",
    "all_windows",
    "find_files",
    "prepare",
    "python_documents",
    "random_windows",
    "read_pieces",
]
