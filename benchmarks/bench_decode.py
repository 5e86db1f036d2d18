"""Decoding: the textbook, transformers' `generate` and fast/ side by side, in turn, in one process.

Each round times all of them and the machine's bandwidth; what is told is the median of the rounds. What a step costs is
predicted from the shapes before it is measured: bytes that must be read, operations that must be done.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks import decoders, roofline
from benchmarks.decoders import NAMES, check_same
from llama_scratch import KVCache, Llama
from llama_scratch.fast import FastLlama, has_cpp_compiler
from llama_scratch.training import speed

PROMPT, NEW, LONG = 16, 32, 512
LENGTHS = (32, 128, 512, 1000)
WORKLOADS = [
    ("24M", torch.float32, 1),
    ("134M", torch.float32, 1),
    ("134M", torch.bfloat16, 1),
    ("134M", torch.float32, 4),
    ("134M", torch.float32, 16),
    ("134M", torch.bfloat16, 16),
]
LARGE = pytest.mark.large
pytestmark = pytest.mark.skipif(not has_cpp_compiler(), reason="needs g++ or clang++")


def label(size: str, dtype: torch.dtype, batch: int = 1) -> str:
    return f"{size} {str(dtype).removeprefix('torch.')}" + (f", batch {batch}" if batch > 1 else "")


def beside_transformers(seconds: dict[str, float]) -> dict[str, str]:
    ratios = {name: seconds["transformers"] / seconds[name] for name in ("textbook", "fast")}
    return {f"{name} / transformers": f"{ratio:.2f}" for name, ratio in ratios.items()}


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("size", "dtype", "batch"),
    [pytest.param(*w, marks=[] if w[0] == "24M" else LARGE, id=label(*w)) for w in WORKLOADS],
)
def test_decode(benchmark, tell, rounds, size, dtype, batch):
    """Tokens a second behind a prompt of 16, the prompt's own time subtracted; and the time to the first."""
    calls = decoders.decoders(size, dtype)
    model = decoders.model(size, dtype)
    prompt = torch.randint(32000, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    ties = check_same(model, {name: calls[name](prompt, NEW + 1) for name in NAMES})
    read = decoders.step_bytes(model.config, dtype, batch, PROMPT + NEW // 2)
    work = decoders.step_flops(model.config, batch, PROMPT + NEW // 2)
    peak = speed.peak_flops("cpu", dtype)
    bound = max(read / max(roofline.bandwidth() for _ in range(3)), work / peak)
    tell(f"{label(size, dtype, batch)}: a step reads {read / 1e6:.0f} MB and does {work / 1e9:.2f} GFLOP: "
         f"at least {bound * 1e3:.2f} ms here, {batch / bound:.0f} tokens/s")  # fmt: skip
    first: dict[str, list[float]] = {name: [] for name in NAMES}
    step: dict[str, list[float]] = {name: [] for name in NAMES}
    rates: list[float] = []

    def one_round() -> None:
        rates.append(roofline.bandwidth())
        for name in NAMES:
            first[name].append(timed(partial(calls[name], prompt, 1)))
            step[name].append((timed(partial(calls[name], prompt, NEW + 1)) - first[name][-1]) / NEW)

    benchmark.group = "decode"
    benchmark.pedantic(lambda: calls["fast"](prompt, NEW), setup=one_round, rounds=rounds)
    seconds = {name: statistics.median(step[name]) for name in NAMES}
    bandwidth = statistics.median(rates)
    bound = max(read / bandwidth, work / peak)
    cells = {name: f"{batch / seconds[name]:.1f}" for name in NAMES} | beside_transformers(seconds)
    cells["fast, share of roofline"] = f"{bound / seconds['fast']:.0%} of {batch / bound:.0f}"
    tell.row("decode, tokens/s", label(size, dtype, batch), cells)
    tell.row(
        "time to the first token (prompt of 16), ms",
        label(size, dtype, batch),
        {name: f"{statistics.median(first[name]) * 1e3:.1f}" for name in NAMES},
    )
    benchmark.extra_info |= {
        "torch": torch.__version__, "bytes": read, "flops": work, "bandwidth": bandwidth, "gemm_peak": peak,
        "seconds_a_step": seconds, "seconds_to_first": {n: statistics.median(first[n]) for n in NAMES}, "batch": batch,
        "share_of_roofline": {name: bound / seconds[name] for name in NAMES}, "ties": ties,
        "label": label(size, dtype, batch),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@LARGE
def test_prefill(benchmark, tell, rounds, dtype):
    """Time to the first token behind a prompt of 512."""
    calls = decoders.decoders("134M", dtype)
    model = decoders.model("134M", dtype)
    prompt = torch.randint(32000, (1, LONG), generator=torch.Generator().manual_seed(0))
    ties = check_same(model, {name: calls[name](prompt, 1) for name in NAMES})
    work = decoders.prompt_flops(model.config, LONG)
    peak = speed.peak_flops("cpu", dtype)
    tell(f"134M {dtype}: a prompt of {LONG} takes {work / 1e9:.0f} GFLOP: at least {work / peak * 1e3:.0f} ms here")
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}

    def one_round() -> None:
        for name in NAMES:
            seconds[name].append(timed(partial(calls[name], prompt, 1)))

    benchmark.group = "prefill"
    benchmark.pedantic(lambda: calls["fast"](prompt, 1), setup=one_round, rounds=rounds)
    medians = {name: statistics.median(seconds[name]) for name in NAMES}
    cells = {name: f"{medians[name] * 1e3:.0f}" for name in NAMES} | beside_transformers(medians)
    cells["fast, share of GEMM peak"] = f"{work / peak / medians['fast']:.0%}"
    tell.row("prefill of 512 tokens, ms", label("134M", dtype), cells)
    benchmark.extra_info |= {
        "torch": torch.__version__,
        "flops": work,
        "gemm_peak": peak,
        "seconds": medians,
        "ties": ties,
    }


def steps_behind(model: Llama, text: torch.Tensor) -> dict[str, Callable[[int], torch.Tensor]]:
    """Logits behind so many tokens of `text`: compiled and textbook over a full cache cropped for it, and without."""
    fast = FastLlama(model)
    room = text.shape[1]
    caches = fast.new_cache(1, room), KVCache(model.config, 1, room)
    for llama, cache in zip((fast, model), caches, strict=True):
        llama(text[:, :-1], cache, last_only=True)

    def behind(llama: Llama | FastLlama, cache: KVCache, length: int) -> torch.Tensor:
        cache.length = length  # what stands behind it is there still, for the next call
        return llama(text[:, length : length + 1], cache, last_only=True)

    return {
        "fast": partial(behind, fast, caches[0]),
        "textbook": partial(behind, model, caches[1]),
        "uncached": lambda length: model(text[:, : length + 1], last_only=True),
    }


@torch.no_grad()
def test_cost_by_length(benchmark, tell, rounds):
    """One more token behind 32 to 1,000: with the cache a position and its keys and values, without it every position
    again. Fitted slopes beside what the shapes predict.
    """
    model = decoders.model("24M", torch.float32)
    dtype = torch.float32
    text = torch.randint(32000, (1, max(LENGTHS) + 1), generator=torch.Generator().manual_seed(0))
    calls = steps_behind(model, text)
    read = [decoders.step_bytes(model.config, dtype, 1, length + 1) for length in LENGTHS]
    work = [decoders.prompt_flops(model.config, length + 1) for length in LENGTHS]
    tell(
        f"24M: cached, a step reads {read[0] / 1e6:.1f} to {read[-1] / 1e6:.1f} MB, {read[-1] / read[0]:.2f} times; "
        f"uncached it does {work[0] / 1e9:.2f} to {work[-1] / 1e9:.2f} GFLOP, {work[-1] / work[0]:.0f} times as much"
    )
    for length in LENGTHS:
        assert len({int(call(length).argmax()) for call in calls.values()}) == 1, "a fast wrong answer is no result"
    repeats = {"fast": 8, "textbook": 8, "uncached": 1}
    seconds = {name: {length: [] for length in LENGTHS} for name in calls}
    rates, peak = [], speed.peak_flops("cpu", dtype)

    def one_round() -> None:
        rates.append(roofline.bandwidth())
        for length, (name, call) in product(LENGTHS, calls.items()):
            times = (timed(partial(call, length)) for _ in range(repeats[name]))
            seconds[name][length].append(statistics.median(times))

    benchmark.group = "cost by length"
    benchmark.pedantic(calls["fast"], (LENGTHS[0],), setup=one_round, rounds=max(rounds, 3))
    medians = {name: [statistics.median(of[length]) for length in LENGTHS] for name, of in seconds.items()}
    bandwidth = statistics.median(rates)
    predicted = {"cached": [b / bandwidth for b in read], "uncached": [w / peak for w in work]}
    for name, values in (medians | {f"predicted {k}": v for k, v in predicted.items()}).items():
        tell.row("one more token, 24M float32, ms", name, line_through(values))
    benchmark.extra_info |= {
        "torch": torch.__version__, "lengths": LENGTHS, "seconds": medians, "predicted": predicted, "bytes": read,
        "flops": work, "bandwidth": bandwidth, "gemm_peak": peak,
    }  # fmt: skip


def line_through(seconds: list[float]) -> dict[str, str]:
    """The costs by length, and the straight line that fits them best."""
    slope, start = np.polyfit(LENGTHS, seconds, 1)
    cells = {f"after {length}": f"{s * 1e3:.2f}" for length, s in zip(LENGTHS, seconds, strict=True)}
    cells |= {"slope, us a token": f"{slope * 1e6:.2f}", "at length 0": f"{start * 1e3:.2f}"}
    return cells | {"last / first": f"{seconds[-1] / seconds[0]:.2f}"}
