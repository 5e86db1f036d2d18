"""How long a checkpoint of 1.1 B parameters takes to load, and at what peak memory, beside transformers.

    .venv/bin/python -m benchmarks.load_checkpoint [--rounds 3] [--folder DIR]

Random weights in the shape of TinyLlama 1.1B (bfloat16, 2.2 GB, two shards). Each loading is a fresh process, ours and
transformers' in turn; its time is that of `from_pretrained` alone, without imports, and its memory the largest resident
set of the whole process, torch and all. "and forward" then reads every weight once: a mapped file costs memory only
where it is touched.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from llama_scratch.command_line import Parser

CONFIG = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
}  # fmt: skip
PROVIDERS = ("ours", "transformers")
SHARD = 1_150_000_000


def make(directory: Path) -> int:
    """Writes the checkpoint; returns the bytes of its weights."""
    from llama_scratch import Llama, LlamaConfig

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    Llama(LlamaConfig(**CONFIG)).save_pretrained(directory, max_shard_size=SHARD)
    shards = list(directory.glob("*.safetensors"))
    assert len(shards) == 2, shards
    return sum(path.stat().st_size for path in shards)


def load(provider: str, directory: str, forward: bool) -> None:
    """In a process of its own: prints seconds, peak bytes, and the sum of the logits."""
    if provider == "ours":
        from llama_scratch import Llama as Model
    else:
        from transformers import LlamaForCausalLM as Model
    started = time.perf_counter()
    model = Model.from_pretrained(directory, **({} if provider == "ours" else {"attn_implementation": "eager"}))
    total = 0.0
    if forward:
        with torch.no_grad():
            output = model(torch.arange(8)[None])
        total = float(getattr(output, "logits", output).float().sum())
    seconds = time.perf_counter() - started
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) == 1_100_048_384
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "total": total}))


def measure(provider: str, directory: Path, forward: bool) -> dict[str, float]:
    code = f"from benchmarks.load_checkpoint import load; load({provider!r}, {str(directory)!r}, {forward})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = Parser(
        "python -m benchmarks.load_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where 2.2 GB are written (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        code = f"from pathlib import Path; from benchmarks.load_checkpoint import make; print(make(Path({folder!r})))"
        size = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        print(f"{size / 1e9:.2f} GB in 2 shards, torch {torch.__version__}, {torch.get_num_threads()} threads")
        for forward in (False, True):
            found: dict[str, list[dict[str, float]]] = {provider: [] for provider in PROVIDERS}
            for _ in range(options.rounds):
                for provider in PROVIDERS:
                    found[provider].append(measure(provider, Path(folder), forward))
            print("load and forward" if forward else "load")
            for provider, rows in found.items():
                seconds = statistics.median(row["seconds"] for row in rows)
                peak = statistics.median(row["peak"] for row in rows)
                every = ", ".join(f"{row['seconds']:.2f}" for row in rows)
                memory = f"{peak / 1e9:.2f} GB = {peak / size:.2f} x the weights"
                print(f"  {provider:<13}{seconds:6.2f} s ({every})   {memory}")
            ours, theirs = (statistics.median(row["seconds"] for row in found[p]) for p in PROVIDERS)
            print(f"  ours / transformers: {ours / theirs:.2f} of the time")
            assert len({row["total"] for rows in found.values() for row in rows}) == 1, (
                "a fast wrong answer is no result"
            )


if __name__ == "__main__":
    main()
