"""The model as this project offers it: positions by default, a cache that does not fit, fresh weights, modes."""

import dataclasses
import inspect

import pytest
import torch

from llama_reference.judge import comparison
from llama_reference.standard import budget
from llama_reference.standard.cases import LENGTH, PADS, Case
from llama_scratch import KVCache, Llama
from llama_scratch.checkpoint import config_file
from llama_scratch.model.attention import Attention, attend, share_heads
from llama_scratch.model.block import Block
from llama_scratch.model.llama import LlamaModel, next_positions


@pytest.fixture(scope="module")
def model():
    case = Case()
    llama = Llama(config_file.from_dict(case.config))
    llama.load_state_dict(case.state)
    return llama.eval().requires_grad_(False)


def test_positions_by_default_are_the_next_ones():
    assert next_positions(3, 8, None, torch.device("cpu")).tolist() == [[5, 6, 7]]


def test_positions_by_default_count_real_tokens_and_padding_gets_0():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1]])
    counted = [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 0, 2]]
    assert next_positions(5, 5, mask, torch.device("cpu")).tolist() == counted
    assert next_positions(2, 5, mask, torch.device("cpu")).tolist() == [row[-2:] for row in counted]


@pytest.mark.parametrize("variant", ["hard", "rope dynamic", "rope yarn", "rope longrope"])
def test_everything_is_computed_where_the_tokens_are_whatever_the_default_device(variant):
    case = Case(variant)
    model = Llama(config_file.from_dict(case.config))
    model.load_state_dict(case.state)

    def answers():
        cache = KVCache(model.config, len(PADS), 2 * LENGTH, device="cpu")
        with torch.no_grad():
            first = model(case.tokens, cache, case.mask, case.positions)
            return first, model(case.tokens, cache), model(case.tokens)

    expected = answers()
    with torch.device("meta"):
        found = answers()
    assert all(map(torch.equal, expected, found))


def test_a_cache_is_where_it_is_wanted(model):
    cache = KVCache(model.config, 2, 3, torch.float16, "meta")
    assert (cache.keys.device.type, cache.values.device.type) == ("meta", "meta")
    assert (cache.keys.dtype, cache.values.dtype) == (torch.float16, torch.float16)


def test_a_cache_of_another_depth_is_refused_and_stays_empty(model):
    tokens = Case().tokens
    for depth in (2, 4):
        cache = KVCache(dataclasses.replace(model.config, num_hidden_layers=depth), len(PADS), LENGTH)
        with pytest.raises(ValueError, match="zip"):
            model(tokens[:, :5], cache)
        assert cache.length == 0


@pytest.mark.parametrize("pad", [None, 7])
def test_fresh_weights_are_drawn_as_transformers_draws_them(pad):
    """N(0, initializer_range) for matrices, zeros for biases and the row of the padding token, ones for gains."""
    config = dataclasses.replace(config_file.from_dict(Case().config), pad_token_id=pad, initializer_range=0.5)
    torch.manual_seed(0)
    state = Llama(config).state_dict()
    for name, w in state.items():
        if name.endswith("bias"):
            assert not w.any()
        elif "norm" in name:
            assert (w == 1).all()
        else:
            assert w.mean().abs() < w.std() / 10
            assert 0.45 < w.std() < 0.55
    assert state["model.embed_tokens.weight"][7].any() == (pad is None)


def test_initializer_range_0_means_the_usual_one():
    config = dataclasses.replace(config_file.from_dict(Case().config), initializer_range=0.0)
    assert 0.018 < Llama(config).lm_head.weight.std() < 0.022


def test_attention_dropout_acts_in_training_only_and_by_its_rate(model):
    case = Case()
    config = dataclasses.replace(model.config, attention_dropout=0.5)
    dropping = Llama(config)
    dropping.load_state_dict(case.state)
    positions = torch.arange(LENGTH)[None]
    with torch.no_grad():
        still = dropping.eval()(case.tokens, positions=positions)
        assert torch.equal(still, model(case.tokens, positions=positions))
        torch.manual_seed(0)
        first = dropping.train()(case.tokens, positions=positions)
        second = dropping.train()(case.tokens, positions=positions)
    assert not torch.equal(first, second)
    assert not torch.equal(first, still)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_fused_kernel_computes_the_same_attention(dropout):
    case = Case()
    fused = Llama(dataclasses.replace(config_file.from_dict(case.config), attention_dropout=dropout), sdpa=True)
    fused.load_state_dict(case.state)
    real = case.mask.bool()

    def logits():
        return fused(case.tokens, attention_mask=case.mask, positions=case.positions)[real]

    theirs, exact = (answers["padded batch"] for answers in comparison.reference_answers("llama", case))
    with torch.no_grad():
        fused.eval()
        verdict = budget.judge("sdpa", logits(), theirs, exact, case.dtype)
        torch.manual_seed(0)
        fused.train()
        first, second = logits(), logits()
    assert verdict.within
    assert not verdict.bitwise  # another order of operations: the kernel was really used
    assert torch.equal(first, second) == (dropout == 0)


def test_unless_asked_for_the_kernel_and_dropout_are_off():
    config = config_file.from_dict(Case().config)
    for part in (Llama, LlamaModel, Block, Attention):
        for asked, arguments in ((False, ()), (True, (True,))):
            found = [m.sdpa for m in part(config, *arguments).modules() if isinstance(m, Attention)]
            assert found == [asked] * len(found)
            assert found
    defaults = {name: p.default for name, p in inspect.signature(attend).parameters.items() if p.default is not p.empty}
    assert defaults == {"dropout": 0.0, "sdpa": False}
    assert dataclasses.replace(config, attention_dropout=None).attention_dropout == 0.0


@pytest.mark.parametrize("pad", [None, 7])
def test_the_padding_row_is_told_to_the_embedding(pad):
    """Without it the row would get a gradient, and training would move it."""
    model = Llama(dataclasses.replace(config_file.from_dict(Case().config), pad_token_id=pad))
    model(torch.tensor([[7, 3]])).sum().backward()
    gradient = model.model.embed_tokens.weight.grad
    assert gradient[3].any()
    assert gradient[7].any() == (pad is None)


def test_heads_are_shared_by_as_many_queries_as_read_them():
    heads = torch.randn(2, 3, 5, 4)
    assert share_heads(heads, 1) is heads  # a copy changes bits in float16 on some machines
    for R in (2, 3):
        assert torch.equal(share_heads(heads, R), heads.repeat_interleave(R, dim=1))


def test_a_row_with_nothing_to_see_reads_all_values_alike_in_the_dtype_of_the_model():
    """The lowest number swallows what is added to it only as long as it is added in the same dtype."""
    q, k, v = torch.ones(3, 1, 1, 4, 8, dtype=torch.float16)
    k = k * torch.arange(4, dtype=torch.float16)[:, None] / 4
    v = v * torch.arange(4, dtype=torch.float16)[:, None]
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert (attend(q, k, v, nothing) == 1.5).all()
