"""What the properties are worth: the references have them, a right program written otherwise has them, and each of
them is lacked by some wrong program.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llama_reference import mistakes
from llama_reference.adapter_loader import load
from llama_reference.questions import properties
from llama_reference.questions.properties import Claim
from llama_reference.standard import oracle
from llama_reference.standard.stepwise import StepwiseLlama

TESTS = Path(__file__).parent
FOLDER = Path(properties.__file__).parent
COMPONENTS = [component for component in mistakes.COMPONENTS if (FOLDER / f"{component}.py").is_file()]
CLAIMS = [claim for component in COMPONENTS for claim in properties.of(component)]
IDS = [f"{claim.component}-{claim.name}" for claim in CLAIMS]
KNOWN_FAILURES = load(TESTS / "adapters" / "huggingface.py").KNOWN_FAILURES


class Rearranged(StepwiseLlama):
    """The same mathematics in another order, as fused kernels and other authors write it; padding gets zeros."""

    def norm(self, x, gain, eps):
        return F.rms_norm(x.float(), x.shape[-1:], gain.float(), eps).to(x.dtype)

    def periods(self, base, channels):
        return torch.exp(torch.arange(0, channels, 2) * (torch.as_tensor(base).double().log() / channels)).float()

    def rotate(self, x, cos, sin):
        planes = torch.complex(*x.float().chunk(2, dim=-1)) * torch.complex(
            *(part[:, None, :, : part.shape[-1] // 2].float() for part in (cos, sin))
        )
        return torch.cat((planes.real, planes.imag), dim=-1).to(x.dtype)

    def linear(self, handle, name, x):
        bias = handle.weights.get(name + ".bias")
        y = torch.einsum("...i,oi->...o", x, handle[name + ".weight"])
        return y if bias is None else y + bias

    def attend(self, q, k, v, seen, scale):
        seen = seen | ~seen.any(-1, keepdim=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)

    def attention(self, handle, layer, x, positions, mask, cache=None):
        return _of_real(super().attention(handle, layer, x, positions, mask, cache), mask)

    def block(self, handle, layer, x, positions, mask, cache=None):
        return _of_real(super().block(handle, layer, x, positions, mask, cache), mask)

    def llama(self, handle, tokens, positions, mask, cache=None):
        return _of_real(super().llama(handle, tokens, positions, mask, cache), mask)

    def gate(self, config, gate, up):
        return (self.activation(config, gate.float()) * up.float()).to(gate.dtype)

    def loss(self, logits, labels):
        targets = labels[:, 1:].flatten()
        rows = logits[:, :-1].float().flatten(0, 1)[targets != -100]
        targets = targets[targets != -100]
        return (rows.logsumexp(-1) - rows.gather(1, targets[:, None])[:, 0]).sum() / len(targets)

    def distribution(self, scores):
        odds = (scores - scores.amax(-1, keepdim=True)).exp()
        return odds / odds.sum(-1, keepdim=True)

    def keep_min_p(self, scores, share):
        ratio = (scores - scores.amax(-1, keepdim=True)).exp()
        return scores.masked_fill(ratio < share, -torch.inf)


def _of_real(y, mask):
    return y if mask is None else y * mask[:, -y.shape[1] :, None]


class RemembersTheLongestCall(StepwiseLlama):
    longest = 0

    def frequencies(self, config, length):
        self.longest = max(self.longest, length)
        return super().frequencies(config, self.longest)


class CallsItselfInEveryRow(StepwiseLlama):
    """Adds the mean over the batch."""

    def swiglu(self, handle, layer, x):
        y = super().swiglu(handle, layer, x)
        return y + y.mean(0, keepdim=True)


class MasksWithInfinity(StepwiseLlama):
    def attend(self, q, k, v, seen, scale):
        R = q.shape[1] // k.shape[1]
        scores = q @ self.share(k, R).transpose(-2, -1) * scale
        return self.softmax(scores.masked_fill(~seen, -torch.inf)) @ self.share(v, R)


class AddsInPlace(StepwiseLlama):
    def block_step(self, handle, layer, x, positions, mask, cache):
        y = super().block_step(handle, layer, x, positions, mask, cache)
        x.copy_(y)
        return y


class CountsItsCalls(StepwiseLlama):
    calls = 0

    def llama(self, handle, tokens, positions, mask, cache=None):
        self.calls += 1
        return super().llama(handle, tokens, positions + self.calls, mask, cache)


class TiedByCopy(StepwiseLlama):
    def build(self, config, state, dtype):
        copied = {"lm_head.weight": state["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}
        return super().build(config | {"tie_word_embeddings": False}, state | copied, dtype)

    def parameters(self, handle):
        return {name: w for name, w in handle.weights.items() if name != "lm_head.weight"}


class FiltersTheGreedy(StepwiseLlama):
    """Temperature 0 is taken for off."""

    def sampling(self, logits, tokens, temperature, top_k, top_p, min_p, repetition_penalty):
        return super().sampling(logits, tokens, temperature or 1.0, top_k, top_p, min_p, repetition_penalty)


class StaysNarrow(StepwiseLlama):
    def sampling(self, logits, *given):
        return super().sampling(logits, *given).to(logits.dtype)


class WritesIntoTheLogits(StepwiseLlama):
    def sampling(self, logits, *given):
        return logits.copy_(super().sampling(logits, *given))


def known(component, name):
    return next(m.implementation for m in mistakes.of(component) if m.name == name)


# Where no known mistake of its own component lacks the property.
WRONG = {
    "rotary-the_order_of_calls_does_not_matter": RemembersTheLongestCall(),
    "attention-rows_with_nothing_to_see_stay_finite": MasksWithInfinity(),
    "attention-rows_with_nothing_to_see_stay_finite_in_float16": MasksWithInfinity(),
    "swiglu-rows_do_not_see_each_other": CallsItselfInEveryRow(),
    "block-rows_do_not_see_each_other": CallsItselfInEveryRow(),
    "block-future_tokens_do_not_move_the_past": known("attention", "not_causal"),
    "block-it_leaves_its_input_alone": AddsInPlace(),
    "llama-two_calls_give_the_same_bits": CountsItsCalls(),
    "llama-tied_is_one_tensor": TiedByCopy(),
    "sampling-greedy_knows_no_filter": FiltersTheGreedy(),
    "sampling-half_precision_logits_are_widened_first": StaysNarrow(),
    "sampling-nobody_writes_into_the_logits": WritesIntoTheLogits(),
}


@pytest.fixture(autouse=True)
def no_graph():
    with torch.no_grad():
        yield


def expected_of_transformers(claim: Claim) -> bool:
    node = f"tests/test_{claim.component}.py::TestProperties::test_holds[{claim}]"
    return not any(part in node for part in KNOWN_FAILURES)


@pytest.mark.parametrize("component", COMPONENTS)
def test_names_are_not_used_twice(component):
    names = [claim.name for claim in properties.of(component)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_the_references_have_it(claim: Claim):
    assert claim.holds(StepwiseLlama(), draws=2)
    assert claim.holds(oracle, draws=2) is expected_of_transformers(claim)


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_the_same_mathematics_in_another_order_has_it(claim: Claim):
    assert claim.holds(Rearranged(), draws=3)


@pytest.mark.parametrize("claim", CLAIMS, ids=IDS)
def test_something_wrong_lacks_it(claim: Claim):
    key = f"{claim.component}-{claim}"
    wrong = [WRONG[key]] if key in WRONG else [m.implementation for m in mistakes.of(claim.component)]
    assert not all(claim.holds(implementation) for implementation in wrong)


def test_wrong_programs_are_kept_for_claims_that_exist():
    assert {*WRONG} <= {*IDS}
