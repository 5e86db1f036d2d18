"""Checkpoints on disk, in any format, <-> a Llama.

pretrained     a Hugging Face directory <-> a Llama: Llama.from_pretrained, save_pretrained
hf_directory   such a directory, without reading weights
config_file    config.json of any vintage <-> LlamaConfig
weight_files   safetensors and torch.save, one file or many; matching: the weights that a model needs
hf_files       the files of a directory to be saved; saving: how they are replaced atomically
meta_format    Meta's params.json and consolidated.*.pth; llama2c_file, gguf_file: other formats
files          untrusted files read, files written; atomic: files and directories replaced atomically
hints          what a path is that is not a checkpoint, and what to do
"""

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.hf_directory import read_checkpoint, read_config
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.checkpoint.weight_files import Checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Llama", "read_checkpoint", "read_config"]
