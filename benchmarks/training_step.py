"""One way to take a training step, as a process: `.venv/bin/python -m benchmarks.training_step SHAPE DTYPE PROVIDER`.

Says in lines of JSON what it is, after the first step; then, for each line that it reads, the seconds that a step took.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import transformers
from torch import nn

from llama_scratch import Llama, LlamaConfig
from llama_scratch.model.loss import next_token_loss
from llama_scratch.train import TrainConfig, take_step
from llama_scratch.training import speed
from llama_scratch.training.distributed import Distributed
from llama_scratch.training.memory import keep_memory
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import make_optimizers

SHAPES = {
    "small": (12, 64, {"vocab_size": 65, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
                       "num_attention_heads": 4, "max_position_embeddings": 64}),
    "large": (16, 256, {"vocab_size": 4096, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
                        "num_attention_heads": 6, "max_position_embeddings": 256}),
}  # fmt: skip
STEPS = {"small": 20, "large": 1}  # whose mean is one answer
WARM_UP = 3


class Theirs(nn.Module):
    """transformers' model, with the loss of a batch in parts, as ours has it."""

    def __init__(self, model: nn.Module, compiled: bool) -> None:
        super().__init__()
        self.model = torch.compile(model) if compiled else model

    def forward(self, tokens: torch.Tensor, targets: int) -> torch.Tensor:
        return next_token_loss(self.model(tokens, use_cache=False).logits, tokens, targets)


def engine(sizes: dict, provider: str) -> nn.Module:
    """Either, with the same weights."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(**sizes, tie_word_embeddings=True), sdpa=True).train()
    compiled = provider.endswith("compiled")
    if provider.startswith("ours"):
        keep_memory()  # as train.py does
        return Objective(model, compiled)
    config = transformers.LlamaConfig(**sizes, tie_word_embeddings=True, attn_implementation="sdpa")
    theirs = transformers.LlamaForCausalLM(config).train()
    theirs.load_state_dict(model.state_dict())
    return Theirs(theirs, compiled)


def main(shape: str, dtype: str, provider: str) -> None:
    B, T, sizes = SHAPES[shape]
    trained, team = engine(sizes, provider), Distributed("cpu")
    optimizers = make_optimizers(trained, "adamw", 0.1)
    batch = torch.randint(sizes["vocab_size"], (B, T), generator=torch.Generator().manual_seed(0))
    config = TrainConfig(batch_size=B, seq_len=T, dtype=dtype)

    def step() -> float:
        return take_step(trained, optimizers, batch, 1e-4, config, team)[0].item()

    first = step()
    for _ in range(WARM_UP):
        step()
    flops = speed.flops_per_token(Llama(LlamaConfig(**sizes, tie_word_embeddings=True)), T)
    print(json.dumps({"loss": first, "tokens": B * T, "flops": flops * B * T}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(STEPS[shape]):
            step()
        print(json.dumps((time.perf_counter() - started) / STEPS[shape]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
