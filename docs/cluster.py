"""One rank of many, without the others: what a step would send and what a rank holds, counted and not believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_scratch.training.distributed import Distributed


class Traffic(TorchDispatchMode):
    """Inside `with`: bytes of the whole tensors that were gathered or reduced, by the collective's name."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._opname.strip("_").removesuffix("_base")
            self.bytes[name] += max(t.nbytes for t in tree_leaves(args) if isinstance(t, Tensor))
        return func(*args, **(kwargs or {}))


@contextmanager
def first_of(ranks: int) -> Iterator[Distributed]:
    """Rank 0 of so many; the others are not there, and what it receives is noise."""
    team = Distributed("cpu")
    team.size = ranks
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield team
    finally:
        dist.destroy_process_group()


def held(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Bytes of this rank's weights, gradients and what the optimisers remember, their counts of steps left out."""
    states = [t for o in optimizers for state in o.state.values() for t in state.values() if t.ndim]
    tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *states]
    return sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors)


class Kept:
    """Inside `with`: bytes that a forward pass keeps for the backward pass, the model's own weights left out."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._storages[storage.data_ptr()] = storage  # alive, so that no other takes its address
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())
