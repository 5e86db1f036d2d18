"""Every private or undocumented interface of torch that this package uses, as seen in torch 2.13.

An upgrade of torch starts here: read its release notes against this file, then run tests/ours/test_fast.py and
tests/ours/test_train.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def load_compiled(path: str) -> Callable[[list[Tensor]], list[Tensor]]:
    """Load the shared library that `compile_ahead` made. Raises RuntimeError for any other file.

    The public torch._inductor.aoti_load_package imports the compiler and leaves 2 MB in the temporary folder.
    """
    return torch._C._aoti.AOTIModelContainerRunnerCpu(path, 1).run


def compile_ahead(module: torch.fx.GraphModule, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Compile an exported module to machine code, at options["aot_inductor.output_path"]."""
    torch._inductor.aot_compile(module, arguments, options=options)


def capture_scalars() -> AbstractContextManager[Any]:
    """Let torch.compile keep `Tensor.item()` in the graph, which would end there otherwise."""
    return torch._dynamo.config.patch(capture_scalar_outputs=True)
