"""A step of training, forward, backward, clipping and AdamW: ours beside transformers', both compiled and not.

Two shapes: a toy of a million parameters, where what is not a product counts, and ten million, where products are most.
The share of the machine is that of the best product of two square matrices, measured in the same run.

And a whole run, as a person starts it: import, tokenizer, training, evaluation, saving. TINYSHAKESPEARE=PATH says where
the text of that name lies, 1,115,394 bytes, of which the last tenth is held out.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from benchmarks.workload import MEDIANS
from llama_scratch import Llama, LlamaConfig
from llama_scratch.loss import next_token_loss
from llama_scratch.train import TrainConfig, take_step
from llama_scratch.training import speed
from llama_scratch.training.journal import VALIDATION
from llama_scratch.training.objective import Objective
from llama_scratch.training.optimizer import make_optimizers
from llama_scratch.training.team import DTYPES, Team

SHAPES = {
    "small": (12, 64, {"vocab_size": 65, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
                       "num_attention_heads": 4, "max_position_embeddings": 64}),
    "large": (16, 256, {"vocab_size": 4096, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
                        "num_attention_heads": 6, "max_position_embeddings": 256}),
}  # fmt: skip
PROVIDERS = ["HF compiled", "HF", "ours", "ours compiled"]  # the last to the first is what counts


class Theirs(nn.Module):
    """transformers' model, with the loss of a batch in parts, as ours has it."""

    def __init__(self, model: nn.Module, compiled: bool) -> None:
        super().__init__()
        self.model = torch.compile(model) if compiled else model

    def forward(self, tokens: torch.Tensor, targets: int) -> torch.Tensor:
        return next_token_loss(self.model(tokens, use_cache=False).logits, tokens, targets)


def engines(sizes: dict, compiled: str | None) -> dict[str, nn.Module]:
    """Both, with the same weights; one may be compiled."""
    torch.manual_seed(0)
    ours = Llama(LlamaConfig(**sizes, tie_word_embeddings=True), sdpa=True).train()
    config = transformers.LlamaConfig(**sizes, tie_word_embeddings=True, attn_implementation="sdpa")
    theirs = transformers.LlamaForCausalLM(config).train()
    theirs.load_state_dict(ours.state_dict())
    return {"ours": Objective(ours, compiled == "ours"), "HF": Theirs(theirs, compiled == "HF")}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("shape", "dtype"), [("small", "float32"), pytest.param("large", "bfloat16", marks=pytest.mark.large)]
)
def test_step(benchmark, request, shape, dtype, provider):
    compiled = provider.endswith("compiled")
    if compiled and not speed.can_compile("cpu"):
        pytest.skip("needs a C++ compiler, and there is none")
    B, T, sizes = SHAPES[shape]
    name = provider.removesuffix(" compiled")
    found = engines(sizes, name if compiled else None)
    batch, team = torch.randint(sizes["vocab_size"], (B, T)), Team("cpu")
    config = TrainConfig(batch_size=B, context=T, dtype=dtype)
    optimizers = {name: make_optimizers(engine, "adamw", 0.1) for name, engine in found.items()}
    losses = {name: take_step(found[name], optimizers[name], batch, 1e-4, config, team)[0] for name in found}
    roundings = torch.finfo(DTYPES[dtype]).eps
    assert abs(losses["ours"] - losses["HF"]) <= roundings * losses["ours"], "a fast wrong answer is no result"
    benchmark.group = f"training step, {shape}, {dtype}"
    benchmark.pedantic(
        take_step, (found[name], optimizers[name], batch, 1e-4, config, team), rounds=20 if shape == "small" else 4,
        warmup_rounds=2,
    )  # fmt: skip
    tokens = B * T / benchmark.stats.stats.median
    peak = speed.peak_flops("cpu", DTYPES[dtype])
    share = tokens * speed.flops_per_token(found["ours"].model, T) / peak
    benchmark.extra_info |= {
        "torch": torch.__version__,
        "tokens/s": round(tokens),
        "share of GEMM peak": round(share, 3),
    }
    request.config.stash[MEDIANS]["training step, ms"][f"{shape} {DTYPES[dtype].itemsize * 8}"][provider] = (
        benchmark.stats.stats.median * 1e3
    )


# beside what the tiny preset says
RECIPE = ["--vocab-size", "1024", "--context", "96", "--batch-size", "12", "--warmup", "30", "--learning-rate", "8e-3",
          "--weight-decay", "0.5", "--eval-every", "100000", "--save-every", "100000"]  # fmt: skip
# in the time that nanoGPT takes for the 2,000 steps of its recipe for a CPU, where both were run
STEPS = {"a third of nanoGPT's time": 150, "nanoGPT's time": 780}


@pytest.mark.large
@pytest.mark.parametrize("budget", STEPS)
def test_recipe(benchmark, tmp_path, tell, budget):
    if not (text := os.environ.get("TINYSHAKESPEARE")):
        pytest.skip("TINYSHAKESPEARE names no file")
    line = [sys.executable, "-m", "llama_scratch.train", "--data", text, "--out", tmp_path / "out", *RECIPE]
    line += ["--steps", str(STEPS[budget])]
    done = benchmark.pedantic(subprocess.run, (line,), {"capture_output": True, "text": True}, rounds=1)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    cells = {
        "steps": str(found["step"]),
        "seconds": f"{benchmark.stats.stats.median:.1f}",
        "bits/byte": f"{found[VALIDATION]:.3f}",
    }
    tell.row("a whole run", budget, cells)
