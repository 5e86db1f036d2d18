"""The next token's distribution: formula · oracle · properties. Choosing a token is not differentiated."""

import pytest
import torch
from transformers import GenerationConfig

from llama_reference.questions.checks.sampling import KNOBS, OFF
from llama_reference.questions.properties.sampling import (
    EQUALS,
    HALVES,
    KEPT_OF_EQUALS,
    KEPT_OF_HALVES,
    V,
    ask,
    support,
)
from llama_reference.standard import formula, oracle
from llama_reference.standard.cases import Case
from llama_reference.suite.declare import declared

globals().update(declared("sampling"))


class TestReferences:
    """What implementations are held to below and above, transformers and the formula are held to."""

    @pytest.mark.parametrize(("given", "kept"), KEPT_OF_HALVES, ids=str)
    @pytest.mark.parametrize("source", [formula, oracle], ids=["formula", "oracle"])
    def test_keeps_exactly_these_of_a_half_a_quarter_and_two_eighths(self, source, given, kept):
        assert support(ask(source, HALVES, **given)) == [kept]

    @pytest.mark.parametrize(("given", "kept"), KEPT_OF_EQUALS, ids=str)
    @pytest.mark.parametrize("source", [formula, oracle], ids=["formula", "oracle"])
    def test_keeps_exactly_these_of_eight_equals(self, source, given, kept):
        assert support(ask(source, EQUALS, **given)) == [kept]

    @pytest.mark.parametrize("label", KNOBS)
    def test_the_oracle_has_the_order_of_transformers_own_generate(self, label):
        case = Case()
        given = OFF | KNOBS[label]
        handle = oracle.build(case.config, case.state, case.dtype)
        tokens = case.tokens[:, :9]
        sampled = given["temperature"] != 0
        off = {"top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
        set_ = {name: off[name] if given[name] is None else given[name] for name in off}
        settings = (
            {"temperature": given["temperature"], **set_}
            if sampled
            else {"repetition_penalty": set_["repetition_penalty"]}
        )
        with torch.random.fork_rng():
            output = handle.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=GenerationConfig(do_sample=sampled, max_new_tokens=1, pad_token_id=0, **settings),
                eos_token_id=None,
                return_dict_in_generate=True,
                output_scores=True,
                output_logits=True,
            )
        expected = oracle.sampling(output.logits[0], tokens, **given)
        found = output.scores[0].softmax(-1) if sampled else torch.eye(V)[output.sequences[:, -1]]
        assert torch.equal(found, expected)
