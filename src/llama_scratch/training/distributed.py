"""The processes of a run: one, or those that torchrun has started, each with its part of every batch.

A small model is copied to every rank, and gradients are averaged (DDP: Li et al. 2020). Of a large one each rank holds
a shard of every tensor, and gathers a layer when it is computed (FSDP2: Zhao et al. 2023).
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
LARGE = 500_000_000  # parameters; with gradients and AdamW's state each takes 16 bytes


def is_main_process() -> bool:
    """Return True on rank 0, and without torchrun."""
    return int(os.environ.get("RANK", 0)) == 0


class Distributed:
    """This process among those of the run: its `rank` of `size`, and its `device`. A context manager."""

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = device
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            self.device = f"cuda:{os.environ['LOCAL_RANK']}"
        self.is_main_process = is_main_process()

    def __enter__(self) -> Self:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
        if self.size > 1:
            # after a restart torchrun's store still holds the addresses of the previous processes
            store, _, _ = next(rendezvous("env://"))
            store = dist.PrefixStore(os.environ.get(RESTARTS, "0"), store)  # type: ignore[attr-defined]  # public
            backend = "nccl" if self.device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size > 1 and error is None:  # after an error torchrun ends the other ranks, which may wait
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the body on rank 0 first, then on the other ranks."""
        if not self.is_main_process:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main_process:
                self.barrier()

    def broadcast_text(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        texts = [text]
        if self.size > 1:
            dist.broadcast_object_list(texts, src=0, device=torch.device(self.device))
        return texts[0]

    def local_rows(self, batch: Tensor) -> Tensor:
        """Return this rank's rows of the batch, on its device."""
        return batch.chunk(self.size)[self.rank].to(self.device)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        """Return True if `value` is true on any rank."""
        return value if self.size == 1 else bool(self.all_reduce_sum(torch.tensor(int(value), device=self.device)))

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Compute matrix products in `dtype`; weights stay float32."""
        return torch.autocast(self.device.split(":")[0], DTYPES[dtype], enabled=dtype != "float32")

    def parallelize(self, objective: Objective, parallel: Parallel, dtype: Dtype) -> nn.Module:
        """Return the module to call instead of `objective`; FSDP changes its model in place."""
        model = objective.model
        if self.size == 1:
            return objective
        large = sum(p.numel() for p in model.parameters()) >= LARGE
        if parallel == "ddp" or (parallel == "auto" and not large):
            return DistributedDataParallel(objective)
        policy = MixedPrecisionPolicy(param_dtype=DTYPES[dtype], reduce_dtype=torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mp_policy=policy)
        # the root too: no backward pass reshards it after an evaluation, and the shards are what is saved
        fully_shard(model, mp_policy=policy, reshard_after_forward=True)
        return objective

    def synchronised(self, engine: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Wrap a part of a batch: gradients are reduced with the last part only."""
        if isinstance(engine, Objective) and isinstance(engine.model, FSDPModule):
            engine.model.set_requires_gradient_sync(last)
        elif isinstance(engine, DistributedDataParallel) and not last:
            return engine.no_sync()
        return nullcontext()

    def gather_model(self, model: Llama) -> Llama:
        """Return the model with all its weights, for rank 0 to save. Every rank must call it."""
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
    """Gather a tensor that may be sharded over the ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def recompute_activations(model: Llama) -> None:
    """Keep the input of each layer only, and recompute the rest in the backward pass (Chen et al. 2016)."""
    for layer in model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
