"""Text -> documents -> tokens on disk -> batches.

sources      files, folders, globs, JSON and gzip, read as a stream of chunks of documents
formats      encodings; files that are not text, and how to convert them
records      JSON objects -> texts and conversations
chats        conversations -> text and ids, by the chat template of a tokenizer
corpus       the tokenizer and both parts of the text as tokens, prepared once and reused, with a manifest
encoding     chunks -> ids, in several processes
token_files  tokens in memory-mapped files
sequences    batches, drawn at random or one after another
baselines    bits per byte of a text without a language model
sizes        how much is read, held and written at a time
"""

from llama_scratch.data.corpus import Corpus, CorpusConfig, prepare
from llama_scratch.data.errors import DataError
from llama_scratch.data.sequences import all_sequences, random_sequences
from llama_scratch.data.sources import find_files, python_documents, read_chunks
from llama_scratch.data.token_files import TokenArray

__all__ = [
    "Corpus",
    "CorpusConfig",
    "DataError",
    "TokenArray",
    "all_sequences",
    "find_files",
    "prepare",
    "python_documents",
    "random_sequences",
    "read_chunks",
]
