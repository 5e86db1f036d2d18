"""Names of dtypes, as config.json and the command lines write them."""

import torch


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")
