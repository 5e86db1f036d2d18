"""Checkpoints on disk, in any format, <-> a Llama.

pretrained     a Hugging Face directory <-> a Llama: Llama.from_pretrained, save_pretrained
hf_directory   what such a directory holds, weights unread
config_file    config.json of any vintage <-> LlamaConfig
weight_files   safetensors and torch.save, one file or many; matching: the weights that a model needs
hf_files       the files of a directory to be saved; saving: how they are replaced in one instant
meta_format    Meta's params.json and consolidated.*.pth; llama2c_file, gguf_file: others' formats
files          files read with care and written whole
"""

from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.checkpoint.hf_directory import read_checkpoint, read_config
from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.checkpoint.weight_files import Checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Llama", "read_checkpoint", "read_config"]
