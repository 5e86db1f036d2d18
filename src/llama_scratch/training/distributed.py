"""The processes of a run: one, or those that torchrun has started, each with its part of every batch.

A small model is copied into every process, and gradients are averaged (DDP: Li et al. 2020). Of a large one each
process holds a part of every tensor, and a layer is put together where it is computed (FSDP2: Zhao et al. 2023).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from llama_scratch.checkpoint.pretrained import Llama
from llama_scratch.training.objective import Objective

Parallel = Literal["auto", "ddp", "fsdp"]
Dtype = Literal["float32", "bfloat16"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
LARGE = 500_000_000  # parameters; with gradients and AdamW's state 16 bytes each


class Distributed:
    """This process among those of the run: its `rank` of `size`, and its `device`. A context manager."""

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
        self.is_main_process = self.rank == 0

    def __enter__(self) -> Self:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
        if self.size > 1:
            # after a restart torchrun's store still holds the addresses of the processes that are gone
            store, _, _ = next(rendezvous("env://"))
            life = dist.PrefixStore(os.environ.get(RESTARTS, "0"), store)  # type: ignore[attr-defined]  # public
            backend = "nccl" if self.device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, store=life, rank=self.rank, world_size=self.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1 and error is None:  # after an error the others may still wait for this one; torchrun ends them
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """What one process does for all, the others find done."""
        if not self.is_main_process:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main_process:
                self.barrier()

    def from_first(self, text: str) -> str:
        """The first process's text, in all of them."""
        told = [text]
        if self.size > 1:
            dist.broadcast_object_list(told, src=0, device=torch.device(self.device))
        return told[0]

    def local_rows(self, batch: Tensor) -> Tensor:
        """This process's rows; together the processes have them all."""
        return batch.chunk(self.size)[self.rank].to(self.device)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return value if self.size == 1 else bool(self.all_reduce_sum(torch.tensor(int(value), device=self.device)))

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Products are rounded to bfloat16, where that is asked for; weights stay float32."""
        return torch.autocast(self.device.split(":")[0], DTYPES[dtype], enabled=dtype != "float32")

    def parallelize(self, objective: Objective, parallel: Parallel, dtype: Dtype) -> nn.Module:
        """What to call instead of `objective`; its model is changed in place by FSDP."""
        model = objective.model
        if self.size == 1:
            return objective
        large = sum(p.numel() for p in model.parameters()) >= LARGE
        if parallel == "ddp" or (parallel == "auto" and not large):
            return DistributedDataParallel(objective)
        policy = MixedPrecisionPolicy(param_dtype=DTYPES[dtype], reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mp_policy=policy)
        # the rest too: after an evaluation no backward pass would take it apart, and what is saved are the parts
        fully_shard(model, mp_policy=policy, reshard_after_forward=True)
        return objective

    def synchronised(self, engine: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around a part of a batch: gradients travel with the last one only."""
        if isinstance(engine, Objective) and isinstance(engine.model, FSDPModule):
            engine.model.set_requires_gradient_sync(last)
        elif isinstance(engine, DistributedDataParallel) and not last:
            return engine.no_sync()
        return nullcontext()

    def gather_model(self, model: Llama) -> Llama:
        """The model with all of its weights, for the first process to save; all processes must ask for it."""
        if not isinstance(model, FSDPModule):
            return model
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)
        with torch.device("meta"):
            whole = Llama(model.config)
        if self.is_main_process:
            whole.load_state_dict(state, assign=True)
            whole.tie_weights()
        return whole


def whole_tensor(tensor: Tensor) -> Tensor:
    """Of a tensor of which each process may hold a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def recompute_activations(model: Llama) -> None:
    """Keeps only what enters a layer, and computes the rest again for the backward pass (Chen et al. 2016)."""
    for layer in model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
