"""float64 arrays, and the way to and from torch."""

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]


def array(x: torch.Tensor) -> Array:
    return x.detach().double().numpy()


def tensor(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))
