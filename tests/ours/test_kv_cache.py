"""The cache: append, crop, reorder, reset; one length for all layers; nothing read that was not written."""

import pytest
import torch

from llama_reference.standard.cases import LENGTH, PADS, Case
from llama_scratch import KVCache, Llama
from llama_scratch.checkpoint import config_file

B = len(PADS)


@pytest.fixture(scope="module")
def model():
    case = Case()
    llama = Llama(config_file.from_dict(case.config))
    llama.load_state_dict(case.state)
    return llama.eval().requires_grad_(False)


@pytest.fixture
def cache(model):
    """Poisoned: a slot that is read before it is written shows."""
    cache = KVCache(model.config, B, LENGTH)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


def test_free_slots_are_never_read(model, cache):
    tokens = Case().tokens
    answer = torch.cat([model(chunk, cache) for chunk in tokens[:, :30].split([5, 1, 11, 13], dim=1)], dim=1)
    assert answer.isfinite().all()
    assert cache.keys[:, :, :, 30:].isnan().all()


def test_the_length_moves_once_a_call(model, cache):
    model(Case().tokens[:, :5], cache)
    assert cache.length == 5
    model(Case().tokens[:, 5:8], cache)
    assert cache.length == 8


def test_a_full_cache_raises_and_stays_as_it_was(model, cache):
    tokens = Case().tokens
    model(tokens[:, :40], cache)
    expected = model(tokens[:, 40:45], cache)
    cache.crop(40)
    with pytest.raises(ValueError, match="40 cached \\+ 9 new positions exceed the cache's max_length 48"):
        model(tokens[:, :9], cache)
    assert cache.length == 40
    assert torch.equal(model(tokens[:, 40:45], cache), expected)


def test_crop_forgets_the_end(model, cache):
    tokens = Case().tokens
    model(tokens[:, :10], cache)
    expected = model(tokens[:, 10:15], cache)
    model(tokens[:, 20:25], cache)
    cache.crop(10)
    assert torch.equal(model(tokens[:, 10:15], cache), expected)


@pytest.mark.parametrize("length", [0, 10])
def test_crop_may_forget_everything_or_nothing(model, cache, length):
    tokens = Case().tokens
    model(tokens[:, :10], cache)
    expected = model(tokens[:, length : length + 5], cache) if length else model(tokens[:, :5])
    cache.crop(length)
    assert cache.length == length
    assert torch.equal(model(tokens[:, length : length + 5], cache), expected)


@pytest.mark.parametrize("length", [-1, 11])
def test_crop_cannot_lengthen(model, cache, length):
    model(Case().tokens[:, :10], cache)
    with pytest.raises(ValueError, match=f"cannot crop to {length}: the cache holds 10 positions"):
        cache.crop(length)


def test_reset_starts_anew_whatever_was_there(model, cache):
    tokens = Case().tokens
    expected = model(tokens[:, :7], KVCache(model.config, B, LENGTH))
    model(tokens, cache)
    cache.reset()
    assert torch.equal(model(tokens[:, :7], cache), expected)


def test_reorder_permutes_every_layer(model, cache):
    tokens, rows = Case().tokens, torch.tensor([3, 3, 0, 4])
    model(tokens[:, :10], cache)
    before = [(layer.keys[:, :, :10].clone(), layer.values[:, :, :10].clone()) for layer in cache]
    cache.reorder(rows)
    assert cache.length == 10
    for layer, (keys, values) in zip(cache, before, strict=True):
        assert torch.equal(layer.keys[:, :, :10], keys[rows])
        assert torch.equal(layer.values[:, :, :10], values[rows])
    assert model(tokens[rows, 10:14], cache).shape[0] == len(rows)


def test_two_caches_do_not_know_each_other(model, cache):
    tokens = Case().tokens
    alone = torch.cat([model(tokens[:, s : s + 4], cache) for s in (0, 4, 8)], dim=1)
    first = KVCache(model.config, B, LENGTH)
    second = KVCache(model.config, B, LENGTH)
    parts = []
    for s in (0, 4, 8):
        parts.append(model(tokens[:, s : s + 4], first))
        model(tokens[:, s + 20 : s + 26], second)
    assert torch.equal(torch.cat(parts, dim=1), alone)


@pytest.mark.parametrize(
    ("batch", "dtype", "message"),
    [(B + 1, torch.float32, r"keys \(5, 2, 3, 20\)"), (B, torch.bfloat16, r"torch\.float32 for a cache .*bfloat16")],
)
def test_another_batch_or_dtype_is_refused(model, batch, dtype, message):
    with pytest.raises(ValueError, match=message):
        model(Case().tokens[:, :3], KVCache(model.config, batch, LENGTH, dtype))


def test_grouped_heads_are_stored_once(model, cache):
    config = model.config
    numbers = 2 * config.num_hidden_layers * B * config.num_key_value_heads * LENGTH * config.head_dim
    assert cache.keys.numel() + cache.values.numel() == numbers


def test_no_gradient_stays_in_it(cache):
    case = Case()
    model = Llama(config_file.from_dict(case.config))
    model(case.tokens[:, :5], cache)
    model(case.tokens[:, 5:9], cache).sum().backward()
    assert not cache.keys.requires_grad


def test_a_mask_of_another_width_is_refused(model, cache):
    model(Case().tokens[:, :5], cache)
    with pytest.raises(ValueError, match=r"attention_mask is \(5, 3\), expected \(5, 8\)"):
        model(Case().tokens[:, :3], cache, attention_mask=torch.ones(B, 3, dtype=torch.long))


def test_positions_count_real_tokens_where_there_is_a_mask(model):
    """By default a padded row stands where it would without its padding, as in transformers' generate."""
    case = Case()
    positions = (case.mask.cumsum(-1) - 1).clamp(min=0)
    given = model(case.tokens, attention_mask=case.mask, positions=positions)
    default = model(case.tokens, attention_mask=case.mask, positions=None)
    assert torch.equal(given, default)
    assert not torch.equal(default, model(case.tokens, attention_mask=case.mask, positions=torch.arange(LENGTH)[None]))
