"""Files of `torch.save`: a zip of one pickle, which says what the tensors are, and one record of bytes for each.

A pickle is a program. `weights_only=True` runs only instructions that build tensors and refuses the rest, so a hostile
file cannot execute code. Records are memory-mapped, so they must be uncompressed, as torch writes them; a compressed
one could also unpack to any size.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from llama_scratch.checkpoint.files import CheckpointError, size, unreadable


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read memory-mapped tensors by name. Raises CheckpointError for a file with anything else."""
    bytes_there = size(path)
    try:
        _check_zip(path, bytes_there)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"its pickle asks for {asked[1]}" if asked else "its pickle is damaged or does more than build tensors"
        raise CheckpointError(f"{path} is refused: {what}; nothing of it was run") from None
    except Exception as error:  # for a damaged pickle the unpickler may raise anything
        raise unreadable(path, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected tensors by name")
    return {str(key): _checked(path, key, tensor) for key, tensor in content.items()}


def _check_zip(path: Path, bytes_there: int) -> None:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} cannot be read: it is truncated, or not a zip file, which torch.save writes since 1.6"
        )
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise CheckpointError(f"{path} is refused: {record.filename} is compressed, which torch.save never does")
    total = sum(record.file_size for record in records)
    if total > bytes_there:
        raise CheckpointError(f"{path} is refused: its records claim {total} bytes, the file has {bytes_there}")


def _checked(path: Path, key: object, tensor: object) -> Tensor:
    if isinstance(tensor, dict) and all(isinstance(part, Tensor) for part in tensor.values()) and tensor:
        how = f"torch.save(torch.load({path.name!r})[{key!r}], 'pytorch_model.bin')"
        raise CheckpointError(f"{path}: {key} is a dict, which holds the tensors: save it alone: {how}")
    if not isinstance(key, str) or not isinstance(tensor, Tensor):
        raise CheckpointError(f"{path}: {key} is {type(tensor).__name__}, expected a tensor")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"{path}: {key} is {tensor.layout} on {tensor.device}, expected plain numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {key} has shape {tuple(tensor.shape)}, more than is stored of it")
    return tensor.detach()
