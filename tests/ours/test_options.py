"""What only our model offers beside the seam: fused attention, dropout, shapes that are checked."""

import dataclasses

import jaxtyping
import pytest
import torch

from llama_reference.standard import oracle
from llama_reference.standard.cases import DTYPES, Case
from llama_scratch import Llama
from llama_scratch.checkpoint import config_file
from llama_scratch.model.loss import next_token_loss
from llama_scratch.model.rms_norm import RMSNorm


def build(case: Case, **options) -> Llama:
    model = Llama(config_file.from_dict(case.config), **options).to(case.dtype)
    model.load_state_dict(case.state, strict=False)
    return model.eval()


@pytest.mark.parametrize("variant", ["hard", "one group", "a group a head"])
def test_fused_attention_is_within_budget(within_budget, variant):
    case = Case(variant)
    with torch.no_grad():
        answer = build(case, sdpa=True)(case.tokens, attention_mask=case.mask, positions=case.positions)
    within_budget("llama", case, "padded batch", answer[case.mask.bool()])
    assert not torch.equal(answer, build(case)(case.tokens, attention_mask=case.mask, positions=case.positions))


def test_dropout_falls_in_training_only():
    case = Case()
    plain, dropping = build(case), build(case)
    for layer in dropping.model.layers:
        layer.self_attn.dropout = 0.5
    assert torch.equal(dropping(case.tokens), plain(case.tokens))
    dropping.train()
    assert not torch.equal(dropping(case.tokens), plain(case.tokens))
    assert not torch.equal(dropping(case.tokens), dropping(case.tokens))


def test_dropout_is_read_from_the_configuration():
    config = dataclasses.replace(config_file.from_dict(Case().config), attention_dropout=0.25)
    assert {layer.self_attn.dropout for layer in Llama(config).model.layers} == {0.25}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["hard", "tied", "rope dynamic"])
def test_loss_and_every_gradient_have_transformers_bits(variant, dtype):
    case = Case(variant, dtype)
    labels = case.tokens.masked_fill(case.mask == 0, -100)
    ours = build(case)
    theirs = oracle.build(case.config, case.state, dtype)
    loss = next_token_loss(ours(case.tokens, attention_mask=case.mask, positions=case.positions), labels)
    expected = oracle.loss(oracle.llama(theirs, case.tokens, case.positions, case.mask), labels)
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    for (name, parameter), (their_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == their_name
        assert parameter.grad.any(), name
        assert torch.equal(parameter.grad, other.grad), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sharpness", [1, 4, 12])
def test_rows_of_padding_have_transformers_bits_too(dtype, sharpness):
    """Nobody reads them, but whoever compares whole tensors sees them. In float16 a masked score below −16 becomes −∞,
    which transformers leaves as it is; only where a whole row is −∞ is its answer NaN, and ours is not.
    """
    case = Case("hard", dtype)
    quiet = {key: w * sharpness if "q_proj" in key else w for key, w in case.state.items()}
    theirs = oracle.build(case.config, quiet, dtype)
    ours = build(case)
    ours.load_state_dict(quiet)
    with torch.no_grad():
        expected = oracle.llama(theirs, case.tokens, case.positions, case.mask)
        found = ours(case.tokens, attention_mask=case.mask, positions=case.positions)
    assert expected.isfinite().all()
    assert (case.mask == 0).any()
    assert torch.equal(found, expected)


def test_shapes_in_signatures_are_checked():
    """The canary of the import hook: installed too late it would check nothing, silently."""
    with pytest.raises(jaxtyping.TypeCheckError):
        RMSNorm(4, 1e-5)(torch.ones(3, 4, dtype=torch.int64))
