"""Peak memory of decoding beside weights and cache in bytes: `.venv/bin/python -m benchmarks.decode_memory` (Linux).

A fresh process for each decoder; what it held before the model existed is subtracted. What fast decoding is compiled by
is no part of that process. "later" is the peak of a second text.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NEW = 200


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(decoder: str) -> None:
    import torch

    from docs.real_models import cache_bytes
    from llama_scratch import Llama, LlamaConfig, generate

    before = _status("VmRSS")
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    model = Llama(LlamaConfig(vocab_size=32000, **shape)).requires_grad_(False)  # type: ignore[arg-type]
    needed = sum(p.numel() * 4 for p in model.parameters()) + cache_bytes(model.config, 16 + NEW, 4)
    peaks = []
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        generate(model, torch.arange(16)[None], NEW, stop_ids=[], fast=decoder == "fast")
        peaks.append((_status("VmHWM") - before) / needed)
    told = f"{peaks[0]:.2f} times the weights and the cache, later {peaks[1]:.2f}"
    print(f"{decoder:<10}{needed / 1e6:.0f} MB needed, peak {told} (torch {torch.__version__})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for name in ("textbook", "fast"):
            subprocess.run([sys.executable, "-m", "benchmarks.decode_memory", name], check=True)
