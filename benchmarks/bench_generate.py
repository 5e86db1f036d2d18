"""What one more token costs, with the cache and without it, behind texts of several lengths.

With the cache one position goes through the model, whatever stands before it, and only attention reads it: nearly flat.
Without, every position goes through again: the cost grows with the length, and faster once attention dominates.
"""

import pytest
import torch

from benchmarks.workload import CONFIG, MEDIANS
from llama_scratch import KVCache

LENGTHS = (32, 128, 512, 1024)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("how", ["cached", "uncached"])
def test_one_more_token(benchmark, request, models, how, length):
    source, model = models["ours"]
    tokens = torch.randint(CONFIG["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))
    cached, uncached = (source.generate(model, tokens, None, 4, use_cache=c) for c in (True, False))
    assert torch.equal(cached, uncached), "a fast wrong answer is no result"
    cache = KVCache(model.config, 1, length + 1)

    def with_cache():
        cache.crop(length)
        return model(cached[:, length : length + 1], cache)[:, -1]

    def without_cache():
        return model(cached[:, : length + 1])[:, -1]

    with torch.no_grad():
        model(tokens, cache)
        assert torch.equal(with_cache().argmax(-1), without_cache().argmax(-1))
        benchmark.group = "one more token"
        benchmark.extra_info |= {"length": length, "torch": torch.__version__}
        benchmark(with_cache if how == "cached" else without_cache)
    median = benchmark.stats.stats.median * 1e3
    request.config.stash[MEDIANS]["one more token, ms"][f"after {length}"][how] = median
