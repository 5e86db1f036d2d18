"""The questions: each NAME.ask(implementation, case) gives the answers to compare, by label."""

import torch

from llama_reference.questions.checks import (
    attention,
    block,
    generate,
    kv_cache,
    llama,
    loss,
    rms_norm,
    rotary,
    sampling,
    swiglu,
)
from llama_reference.questions.checks.check import Check
from llama_reference.standard.cases import DTYPES

__all__ = ["CHECKS", "Check"]

_CHECKS = (
    Check(name="rms_norm", ask=rms_norm.ask, variants=rms_norm.VARIANTS),
    Check(name="rotary", ask=rotary.ask, variants=rotary.VARIANTS),
    Check(
        name="attention",
        ask=attention.ask,
        variants=attention.VARIANTS,
        gradient_variants=("hard", "one group"),
        not_differentiated=attention.NOT_DIFFERENTIATED,
    ),
    Check(
        name="swiglu",
        ask=swiglu.ask,
        variants=swiglu.VARIANTS,
        gradient_variants=("hard", "gelu"),
    ),
    Check(name="block", ask=block.ask, variants=block.VARIANTS),
    Check(
        name="kv_cache",
        ask=kv_cache.ask,
        variants=kv_cache.VARIANTS,
        no_gradients="a cache holds numbers; no contract says whether gradients flow through it",
    ),
    Check(
        name="llama",
        ask=llama.ask,
        variants=llama.VARIANTS,
        gradient_variants=("hard", "tied", "a group a head"),
        telling_gradients=2,
        not_differentiated=llama.NOT_DIFFERENTIATED,
    ),
    Check(name="loss", ask=loss.ask, variants=loss.VARIANTS),
    Check(
        name="sampling",
        ask=sampling.ask,
        variants=sampling.VARIANTS,
        no_gradients="choosing a token is not differentiated",
        interchangeable=sampling.interchangeable,
    ),
    Check(
        name="generate",
        ask=generate.ask,
        variants=generate.VARIANTS,
        dtypes=(torch.float32,),  # greedy ties are a matter of rounding
        further=(
            ("a group a head", torch.float32),
            ("rope dynamic", torch.float32),
            *(("hard", dtype) for dtype in DTYPES[1:]),
        ),
        no_gradients="tokens are whole numbers",
        judge=generate.judge,
    ),
)
CHECKS = {check.name: check for check in _CHECKS}
