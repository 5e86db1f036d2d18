"""Tensors in files that any language reads: .npy, or .safetensors with one tensor.

.npy has no bfloat16: such a tensor is stored as float32, which holds it exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMATS = ("npy", "safetensors")
NAME = "tensor"  # of the one tensor in a .safetensors


class BadAnswer(Exception):  # noqa: N818  an outcome, not an error
    """What came back cannot be judged; the message names the file or the program."""


def write(path: Path, tensor: Tensor) -> None:
    """Write the tensor in the format that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensor = tensor.detach().contiguous()
    if path.suffix == ".safetensors":
        save_file({NAME: tensor}, path)
    else:
        np.save(path, (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def read(path: Path) -> Tensor:
    """The tensor of a file. Raises BadAnswer, naming the file, where there is none in it."""
    try:
        if path.suffix == ".safetensors":
            (tensor,) = load_file(path).values()
            return tensor
        found = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("="))).reshape(found.shape)
    except (ValueError, TypeError, EOFError, SafetensorError) as error:
        raise BadAnswer(f"{path}: not an array in a {path.suffix} file: {error}") from error


def narrowed(answer: Tensor, dtype: torch.dtype) -> Tensor:
    """The answer in the dtype of the question where that holds it exactly; else as it is."""
    if answer.dtype.is_floating_point != dtype.is_floating_point:
        return answer
    narrow = answer.to(dtype)
    back = narrow.to(answer.dtype)
    return narrow if torch.equal(back.nan_to_num(), answer.nan_to_num()) else answer
